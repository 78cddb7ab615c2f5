//! What plans run in, at both ends.

use std::path::PathBuf;
use std::sync::Arc;

use datafusion::common::Result;
use datafusion::execution::FunctionRegistry as _;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::prelude::SessionContext;
use datafusion_distributed::{
    DistributedExt, SessionStateBuilderExt, WorkerQueryContext, WorkerResolver,
};
use url::Url;

use crate::functions;
use crate::link::Links;
use crate::store::ReadOnly;

/// Nothing is written to disks: intermediate results are exact. Files are those below `folders`.
///
/// # Errors
/// What the system said of a folder, or the engine.
pub fn runtime(folders: &[PathBuf]) -> Result<Arc<RuntimeEnv>> {
    let disk = DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled);
    let runtime = RuntimeEnvBuilder::new()
        .with_disk_manager_builder(disk)
        .build_arc()?;
    let files =
        Url::parse("file:///").map_err(|e| datafusion::common::exec_datafusion_err!("{e}"))?;
    runtime.register_object_store(&files, Arc::new(ReadOnly::new(folders)?));
    Ok(runtime)
}

/// A worker's, for one query.
///
/// # Errors
/// The engine's.
pub fn of_worker(context: WorkerQueryContext, links: Links) -> Result<SessionState> {
    with_functions(
        context
            .builder
            .with_distributed_channel_resolver(links)
            .build(),
    )
}

/// The coordinator's, for one attempt on these workers: all of them take part, however small the files are.
///
/// # Errors
/// The engine's.
pub fn of_coordinator(
    runtime: Arc<RuntimeEnv>,
    workers: Vec<Url>,
    links: Links,
) -> Result<SessionContext> {
    let state = SessionStateBuilder::new()
        .with_default_features()
        .with_runtime_env(runtime)
        .with_distributed_worker_resolver(Living(workers))
        .with_distributed_channel_resolver(links)
        .with_distributed_planner()
        .with_distributed_file_scan_config_bytes_per_partition(1)?
        .with_distributed_metrics_collection(false)?
        .build();
    Ok(SessionContext::new_with_state(with_functions(state)?))
}

fn with_functions(mut state: SessionState) -> Result<SessionState> {
    for function in functions::all() {
        state.register_udf(function)?;
    }
    Ok(state)
}

/// The workers that answered the roll call.
struct Living(Vec<Url>);

impl WorkerResolver for Living {
    fn get_urls(&self) -> Result<Vec<Url>> {
        let mut urls = self.0.clone();
        // A plan that is not split would run in the coordinator: a worker alone gets two parts.
        if let [alone] = urls.as_slice() {
            urls.push(alone.clone());
        }
        Ok(urls)
    }
}
