//! A connection out of the pool, given back only where its state is known.

use super::turns::Turn;
use crate::error::{Error, Kind, Result};
use deadpool_postgres::{Object, Pool};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;

/// Dropped while it is not clean (inside a transaction, or with a statement that was not waited for), the connection
/// is closed: Postgres rolls back, and nobody gets it next.
pub struct Connection {
    client: Option<Object>,
    clean: AtomicBool,
    timeout: Duration,
    /// Given back with the connection.
    turn: Option<Turn>,
}

impl Connection {
    pub async fn open(pool: &Pool, timeout: Duration) -> Result<Self> {
        let client = pool.get().await.map_err(|error| Error::because(Kind::Unavailable, "connecting to Postgres", error))?;
        // A plan is kept as long as its statement, and one that was made while the tables were small may suit them no more.
        if Object::metrics(&client).recycle_count.is_power_of_two() {
            client.statement_cache.clear();
        }
        Ok(Self { client: Some(client), clean: AtomicBool::new(true), timeout, turn: None })
    }

    /// Keeps a database's turn for as long as the connection is out.
    pub fn with_turn(mut self, turn: Turn) -> Self {
        self.turn = Some(turn);
        self
    }

    pub fn client(&self) -> &Object {
        self.client.as_ref().unwrap_or_else(|| unreachable!("taken only by the drop"))
    }

    /// Notes whether it may go back to the pool.
    pub fn set_clean(&self, clean: bool) {
        self.clean.store(clean, Ordering::Relaxed);
    }

    /// Waits for statements, for so long and no longer.
    pub async fn bounded<T>(&self, doing: &str, work: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T> {
        // Not clean until it is answered: whoever waits here may be dropped in the middle.
        let was = self.clean.swap(false, Ordering::Relaxed);
        match tokio::time::timeout(self.timeout, work).await {
            Ok(result) => {
                self.set_clean(was);
                result.map_err(|error| failed(doing, error))
            }
            Err(_) => Err(Error::because(Kind::Unavailable, doing, format!("Postgres did not answer within {:?}", self.timeout))),
        }
    }

    /// Runs one statement and reads what each row means.
    pub async fn rows<T>(
        &self,
        doing: &str,
        statement: &str,
        params: &[&(dyn ToSql + Sync)],
        read: impl Fn(&Row) -> Result<T>,
    ) -> Result<Vec<T>> {
        let rows = self
            .bounded(doing, async {
                let statement = self.client().prepare_cached(statement).await?;
                self.client().query(&statement, params).await
            })
            .await?;
        rows.iter().map(read).collect()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if !self.clean.load(Ordering::Relaxed)
            && let Some(client) = self.client.take()
        {
            drop(Object::take(client));
        }
    }
}

/// What a failed statement means for its caller.
pub fn failed(doing: &str, error: tokio_postgres::Error) -> Error {
    let kind = match error.code() {
        // No answer of the server's: the connection, or a value that could not be sent.
        None if error.is_closed() || is_io(&error) => Kind::Unavailable,
        None => Kind::Internal,
        Some(code) => {
            let away = [
                SqlState::LOCK_NOT_AVAILABLE,
                SqlState::QUERY_CANCELED,
                SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
                SqlState::READ_ONLY_SQL_TRANSACTION, // a standby, after a failover
            ];
            let class = code.code().get(..2).unwrap_or("");
            if away.contains(code) || matches!(class, "08" | "40" | "53" | "57" | "58") { Kind::Unavailable } else { Kind::Internal }
        }
    };
    let detail = describe(&error);
    Error::because(kind, doing, detail)
}

fn is_io(error: &tokio_postgres::Error) -> bool {
    std::error::Error::source(error).is_some_and(|cause| cause.is::<std::io::Error>())
}

/// The error in a line, without what a client sent.
pub fn describe(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => format!("{} ({})", db.message(), db.code().code()),
        None => {
            let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
            format!("{error}{cause}")
        }
    }
}
