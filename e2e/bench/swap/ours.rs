//! The operator's swap, behind one function.

use std::time::Duration;

use portal_release_operator::database::commit;
use portal_release_operator::database::identifiers::{Generation, Relations};
use portal_release_operator::database::swap::{self, CancelBlockers, Limits, SwapError, SwapRequest};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

/// Lets `incoming` take the place of live. Returns how long every relation was locked exclusively.
pub(crate) async fn one_swap(
    pool: &PgPool,
    relations: &Relations,
    incoming: &Generation,
    outgoing: &Generation,
) -> Result<Duration, SwapError> {
    let order =
        SwapRequest { relations, incoming, outgoing, finally: &[], limits: Limits::default(), cancel_blockers: CancelBlockers::default() };
    let (tx, exchanged) = swap::exchange(pool, &order, pool, &CancellationToken::new()).await?;
    commit(tx).await.map_err(|source| SwapError::Database { what: "COMMIT".to_owned(), source })?;
    let held = exchanged.locked.elapsed();
    let mut conn = pool.acquire().await.unwrap();
    assert_eq!(swap::validate_constraints(&mut conn, relations).await?, Vec::<String>::new());
    Ok(held)
}
