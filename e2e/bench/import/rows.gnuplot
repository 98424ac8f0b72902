# Rows over time: the operator, the script by hand, bare COPY, and the line on which the incumbent's way would go on.
set terminal pngcairo size 1200,700 font 'sans,11'
set output directory.'/rows.png'
set title 'Rows that are in the new tables and views'
set xlabel 'seconds since it was begun'
set ylabel 'rows'
set format y '%.1s%c'
set grid lc rgb '#dddddd'
set key left top
set yrange [0:*]
set xrange [0:*]
plot directory.'/operator.dat' using 1:2 with steps lw 3 lc rgb '#1b7837' title 'the operator, until the manifest is written', \
  directory.'/by-hand.dat' using 1:2 with steps lw 2 lc rgb '#2166ac' title 'a script by hand, which does the same', \
  directory.'/copy.dat' using 1:2 with steps lw 2 lc rgb '#888888' title 'bare COPY of the same bytes, and nothing else', \
  directory.'/incumbent.dat' using 1:2 with lines lw 2 dt 2 lc rgb '#b2182b' title 'batches of 10 by OFFSET (measured on a sample)'
