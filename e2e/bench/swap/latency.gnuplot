# Reads around swaps: the operator's swap beside the plain renames of before. Each dot is one statement of a reader.
set terminal pngcairo size 1400,900 font 'sans,11'
set output directory.'/latency.png'
set multiplot layout 2,2 title 'What readers notice of a swap: each dot is one statement, at the time when it was sent'
set logscale y
set yrange [0.1:20000]
set ytics ('0.1 ms' 0.1, '1 ms' 1, '10 ms' 10, '100 ms' 100, '1 s' 1000, '10 s' 10000)
set grid ytics lc rgb '#dddddd'
set key off
set ylabel 'the answer took'
dots = "with points pt 7 ps 0.25"

set xlabel 'ms since the swap was called (20 swaps over each other)'
set xrange [-150:400]
set arrow 1 from 0,graph 0 to 0,graph 1 nohead lc rgb '#888888'
set title "The operator's swap, readers that are fast"
plot directory.'/operator-around.dat' using 1:2 @dots lc rgb '#1b7837'
set title 'Plain renames, readers that are fast'
plot directory.'/renames-around.dat' using 1:2 @dots lc rgb '#b2182b'
unset arrow 1

set xlabel 's since the first swap was called (grey: a swap is being tried)'
set xrange [-2:60]
set title "The operator's swap, beside a reader of 6 s and autovacuum"
plot directory.'/operator-slow-swaps.dat' using 1:(0.1):1:2:(0.1):(20000) with boxxyerror fs solid 0.15 noborder lc rgb '#888888', \
  directory.'/operator-slow.dat' using 1:2 @dots lc rgb '#1b7837'
set title 'Plain renames, beside a reader of 6 s and autovacuum'
plot directory.'/renames-slow-swaps.dat' using 1:(0.1):1:2:(0.1):(20000) with boxxyerror fs solid 0.15 noborder lc rgb '#888888', \
  directory.'/renames-slow.dat' using 1:2 @dots lc rgb '#b2182b'
unset multiplot
