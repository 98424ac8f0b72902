//! Compressed files: they stream, and what is not whole is noticed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_compression::tokio::write::{GzipEncoder, ZstdEncoder};
use async_compression::{Level, zstd::CParameter};
use bytes::Bytes;
use futures::{StreamExt, stream};
use portal_release_operator::database::csv::Format;
use portal_release_operator::storage::content::{Compression, Content};
use portal_release_operator::storage::{File, FileError};
use tokio::io::AsyncWriteExt;

use super::files::{TABLE, load_file, whole};
use super::{assert_says, count, in_database};

async fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzipEncoder::new(Vec::new());
    encoder.write_all(content).await.unwrap();
    encoder.shutdown().await.unwrap();
    encoder.into_inner()
}

async fn zstd(content: &[u8], window_log: u32) -> Vec<u8> {
    let mut encoder = ZstdEncoder::with_quality_and_params(
        Vec::new(),
        Level::Default,
        &[CParameter::window_log(window_log), CParameter::checksum_flag(true)],
    );
    encoder.write_all(content).await.unwrap();
    encoder.shutdown().await.unwrap();
    encoder.into_inner()
}

fn csv(from: usize, to: usize) -> String {
    let header = if from == 0 { "iso3,areas,note\n" } else { "" };
    let lines = (from..to).map(|n| format!("A{:02},{n},\"{:x}\"\n", n % 100, n.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
    std::iter::once(header.to_owned()).chain(lines).collect()
}

#[tokio::test]
async fn compressed_files_are_loaded_whole() {
    in_database(|db| async move {
        let (first, second) = (csv(0, 60_000), csv(60_000, 100_000));
        let members = [gzip(first.as_bytes()).await, gzip(second.as_bytes()).await].concat();
        let frames = [zstd(first.as_bytes(), 20).await, zstd(second.as_bytes(), 20).await].concat();
        for (name, stored) in [("a.csv.gz", members), ("a.csv.zst", frames)] {
            let mut conn = db.with(&format!("DROP TABLE IF EXISTS staging_stats; {TABLE}")).await;
            let pieces: Vec<Result<Bytes, FileError>> = stored.chunks(1000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
            let loaded = load_file(&mut conn, File::new(name, stream::iter(pieces)), &Format::default(), None).await.unwrap();
            assert_eq!(loaded, whole(100_000, &stored), "{name}: the fingerprint is that of the file as it is stored");
            assert_eq!(count(&mut conn, "SELECT sum(areas) FROM staging_stats").await, 100_000 * 99_999 / 2, "{name}");
            assert_eq!(count(&mut conn, "SELECT count(*) FROM staging_stats").await, 100_000, "{name}");
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_not_whole_is_refused_and_leaves_nothing() {
    in_database(|db| async move {
        let mut conn = db.with(TABLE).await;
        let content = csv(0, 50_000);
        for (name, stored) in [("a.csv.gz", gzip(content.as_bytes()).await), ("a.csv.zst", zstd(content.as_bytes(), 20).await)] {
            let cut = |end: usize| stored.get(..end).unwrap().to_vec();
            let mut damaged = stored.clone();
            *damaged.get_mut(stored.len() / 2).unwrap() ^= 0x55;
            let followed = [stored.clone(), b"more".to_vec()].concat();
            for (what, stored) in [
                ("half", cut(stored.len() / 2)),
                ("without its last byte", cut(stored.len() - 1)),
                ("damaged", damaged),
                ("followed by something", followed),
                ("nothing of it", b"iso3\nDEU\n".to_vec()),
            ] {
                let loaded = load_file(&mut conn, File::in_memory(name, stored), &Format::default(), None).await;
                let Err(error) = loaded else { panic!("{name}, {what}: {loaded:?}") };
                assert_says(&error, &["import areas", name]);
                assert_eq!(count(&mut conn, "SELECT count(*) FROM staging_stats").await, 0, "{name} {what}: {error}");
                if what != "damaged" {
                    assert_says(&error, &["it is not a complete", "compress it again"]);
                }
            }
        }
        let wide = zstd(csv(0, 600_000).as_bytes(), 27).await;
        let error = load_file(&mut conn, File::in_memory("wide.csv.zst", wide), &Format::default(), None).await.unwrap_err();
        assert_says(error, &["wide.csv.zst", "without --ultra and --long"]);
    })
    .await;
}

/// A gigabyte that takes a megabyte as gzip: nothing is read ahead, and what is handed on has a bounded size.
#[tokio::test]
async fn no_more_is_in_memory_than_a_few_chunks() {
    let block = gzip(&vec![b'x'; 1 << 20]).await;
    let handed_out = Arc::new(AtomicUsize::new(0));
    let counter = handed_out.clone();
    let blocks = stream::iter(0..200).map(move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
        Ok(Bytes::from(block.clone()))
    });
    let mut content = Content::new(File::new("x.gz", blocks), Compression::Gzip);
    let mut total = 0_usize;
    loop {
        let chunk = content.next().await.unwrap();
        if chunk.is_empty() {
            break;
        }
        assert!(chunk.len() <= 64 * 1024, "{}", chunk.len());
        total += chunk.len();
        let ahead = handed_out.load(Ordering::Relaxed) * (1 << 20) - total;
        assert!(ahead <= 2 << 20, "{ahead} bytes were read ahead");
    }
    assert_eq!(total, 200 << 20);
    assert!(content.fingerprint().is_some());
}
