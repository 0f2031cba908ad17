//! A whole data node: replicated, fenced, migrated under load. A database of its author's (here redb and a search by brute force)
//! stands behind `ShardStore`, any HTTP server before `DataNode`. docs/data-nodes.md takes it apart.

use axum::extract::{Path as Part, State};
use axum::{Json, Router, body::Body, body::Bytes, http::StatusCode, response::Response, routing};
use redb::{Database, ReadableTable, TableDefinition};
use ruvector_cluster_client::{node::*, replica::Key, replica::Value};
use std::path::Path;
use tokio_util::sync::CancellationToken;

const ROWS: TableDefinition<'_, &str, ((u64, u64), &[u8])> = TableDefinition::new("rows");
type Node = State<DataNode<Vectors>>;
type Refusal = (StatusCode, String);
type Found = Vec<(f32, String)>;
struct Vectors(Database);

impl ShardStore for Vectors {
    type Options = ();
    type Query = (Vec<f32>, usize);
    type Found = Found;
    fn open(path: &Path, (): &()) -> Result<Self, StoreFault> {
        let store = Self(Database::create(path)?);
        store.write(&[], &[]).map(|()| store)
    }
    fn stamps(&self) -> Result<Vec<Stamp>, StoreFault> {
        let rows = self.0.begin_read()?.open_table(ROWS)?;
        rows.iter()?
            .map(|row| {
                let (key, row) = row?;
                let (at, value) = row.value();
                Ok(Stamp { key: key.value().into(), position: at.into(), bytes: value.len() as u64 })
            })
            .collect()
    }
    fn get(&self, key: &str) -> Result<Option<Value>, StoreFault> {
        let row = self.0.begin_read()?.open_table(ROWS)?.get(key)?;
        Ok(row.map(|row| Value::copy_from_slice(row.value().1)))
    }
    fn write(&self, put: &[Row], remove: &[Key]) -> Result<(), StoreFault> {
        let writing = self.0.begin_write()?;
        let mut rows = writing.open_table(ROWS)?;
        for Row { key, position, value } in put {
            rows.insert(&**key, ((*position).into(), &**value))?;
        }
        remove.iter().try_for_each(|key| rows.remove(&**key).map(drop))?;
        drop(rows);
        Ok(writing.commit()?)
    }
    fn search(view: &View<'_, Self>, (vector, k): &Self::Query) -> Result<Found, StoreFault> {
        let near = |row: Result<Row, StoreFault>| {
            let Row { key, value, .. } = row?;
            let other: Vec<f32> = serde_json::from_slice(&value)?;
            let squares = vector.iter().zip(&other).map(|(a, b)| (a - b) * (a - b));
            Ok((squares.sum::<f32>().sqrt(), key.to_string()))
        };
        Ok(nearest(view.rows().map(near).collect::<Result<_, StoreFault>>()?, *k))
    }
}

fn nearest(mut found: Found, k: usize) -> Found {
    found.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(&b.1)));
    found.truncate(k);
    found
}

async fn put(State(node): Node, Part(id): Part<String>, Json(vector): Json<Vec<f32>>) -> Result<(), Refusal> {
    Ok(node.write(vec![(id.into(), Some(format!("{vector:?}").into()))], None).await.map(drop)?)
}

async fn get(State(node): Node, Part(id): Part<String>) -> Result<Bytes, Refusal> {
    let (_, value) = node.read(&id.into(), None).await?;
    value.ok_or((StatusCode::NOT_FOUND, "there is no such vector".to_owned()))
}

async fn search(State(node): Node, Json(query): Json<(Vec<f32>, usize)>) -> Result<Json<Found>, Refusal> {
    let k = query.1;
    let by_shard = node.search(query).await?;
    Ok(Json(nearest(by_shard.into_iter().flatten().collect(), k)))
}

async fn peer(State(node): Node, Part(path): Part<String>, body: Bytes) -> Response {
    node.answer(&path, &body).await.map(Body::from)
}

#[tokio::main]
async fn main() -> Result<(), StoreFault> {
    let mut args = std::env::args().skip(1);
    let mut arg = || args.next().ok_or("usage: data-node NODE_ID HOST:PORT DATA_DIR COORDINATOR,...");
    let (node_id, listen, data_dir, coordinators) = (arg()?.parse()?, arg()?, arg()?, arg()?);
    let listener = tokio::net::TcpListener::bind(&listen).await?;
    let config = NodeConfig::new(node_id, listen, coordinators.split(','), data_dir);
    let (node, task) = DataNode::<Vectors>::open(config, ()).await?;
    let app = Router::new()
        .route("/vectors/{id}", routing::put(put).get(get))
        .route("/search", routing::post(search))
        .route("/peer/v1/{*path}", routing::post(peer))
        .layer(axum::extract::DefaultBodyLimit::max(MAX_PEER_BODY_BYTES))
        .with_state(node);
    Ok(task.run(CancellationToken::new(), axum::serve(listener, app)).await?)
}
