//! A key-value store in a file, with an HTTP interface.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use tokio::sync::Mutex;
use tower_lifecycle::BoxError;
use tower_lifecycle::store::{FileStore, StateStore};

/// The key of the saved state.
const KV: &str = "kv";

#[derive(Clone)]
pub struct Kv {
    /// Locked until a change is saved, so that changes are saved in order.
    entries: Arc<Mutex<BTreeMap<String, String>>>,
    file: FileStore,
}

impl Kv {
    pub async fn open(file: FileStore) -> Result<Self, BoxError> {
        let entries: BTreeMap<_, _> = match file.load(KV).await? {
            Some(state) => serde_json::from_slice(&state)?,
            None => BTreeMap::new(),
        };
        tracing::info!(entries = entries.len(), "store opened");
        Ok(Self {
            entries: Arc::new(Mutex::new(entries)),
            file,
        })
    }

    /// Waits until the last change is saved.
    pub async fn close(self) {
        let entries = self.entries.lock().await;
        tracing::info!(entries = entries.len(), "store closed");
    }

    pub fn routes(&self) -> Router {
        Router::new()
            .route("/kv/{key}", get(read).put(write).delete(remove))
            .with_state(self.clone())
    }

    /// Makes a change that survives a crash.
    async fn change(&self, change: impl FnOnce(&mut BTreeMap<String, String>)) -> StatusCode {
        let mut entries = self.entries.lock().await;
        let mut changed = entries.clone();
        change(&mut changed);
        let saved = match serde_json::to_vec(&changed) {
            Ok(state) => self
                .file
                .save(KV, state.into())
                .await
                .map_err(BoxError::from),
            Err(error) => Err(error.into()),
        };
        match saved {
            Ok(()) => {
                *entries = changed;
                StatusCode::NO_CONTENT
            }
            Err(error) => {
                tracing::error!(%error, "the change was not saved");
                StatusCode::INTERNAL_SERVER_ERROR
            }
        }
    }
}

async fn read(State(kv): State<Kv>, Path(key): Path<String>) -> Result<String, StatusCode> {
    let entries = kv.entries.lock().await;
    let value = entries.get(&key).ok_or(StatusCode::NOT_FOUND)?;
    Ok(format!("{value}\n"))
}

async fn write(State(kv): State<Kv>, Path(key): Path<String>, value: String) -> StatusCode {
    kv.change(|entries| drop(entries.insert(key, value))).await
}

async fn remove(State(kv): State<Kv>, Path(key): Path<String>) -> StatusCode {
    kv.change(|entries| drop(entries.remove(&key))).await
}
