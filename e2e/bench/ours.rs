//! The operator's swap, behind one function.

use std::time::{Duration, Instant};

use portal_release_operator::database::identifiers::{Generation, Relations};
use portal_release_operator::database::staging;
use portal_release_operator::database::swap::{self, Limits, SwapError};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

/// Lets `incoming` take the place of live. Returns how long every relation was locked exclusively.
pub(crate) async fn one_swap(
    pool: &PgPool,
    relations: &Relations,
    incoming: &Generation,
    outgoing: &Generation,
) -> Result<Duration, SwapError> {
    let mut tx = swap::lock(pool, relations, incoming, &Limits::default(), &CancellationToken::new()).await?;
    let locked = Instant::now();
    if *incoming == Generation::Staging {
        for lookup in &relations.lookups {
            staging::publish_lookup(&mut tx, &relations.schema, lookup).await.unwrap();
        }
    }
    swap::exchange(&mut tx, relations, incoming, outgoing).await?;
    swap::commit(tx).await?;
    let held = locked.elapsed();
    let mut conn = pool.acquire().await.unwrap();
    assert_eq!(swap::validate_constraints(&mut conn, relations).await?, Vec::<String>::new());
    Ok(held)
}
