//! The engine: a roll call, a plan, and again on the workers that are left when one is lost.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chaff_query::engine::{Failure, Unready};
use chaff_query::source::Source;
use chaff_query::{Databases, Engine, Request, Table};
use datafusion::arrow::datatypes::{DataType, Schema};
use datafusion::common::{Result, exec_datafusion_err};
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::listing::{
    ListingOptions, ListingTable, ListingTableConfig, ListingTableUrl,
};
use datafusion::parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use datafusion::prelude::{DataFrame, SessionContext};
use tokio::runtime::{Builder, Runtime};
use tokio::time::{Instant, timeout_at};
use url::Url;

use crate::link::Links;
use crate::plan::Roles;
use crate::roll::{self, Print, Standing};
use crate::{session, tables};

/// Stack of threads that plans run on: plans are trees, and walked from the root.
pub(crate) const STACK: usize = 16 << 20;

/// How long and how often.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// An answer that is not there by then is none.
    pub deadline: Duration,
    /// How often a plan is run again from the start, after a worker was lost.
    pub retries: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(120),
            retries: 2,
        }
    }
}

/// Workers that compute tables of units.
pub struct Cluster {
    workers: Vec<Url>,
    links: Links,
    limits: Limits,
    runtime: Runtime,
    last: Mutex<Option<String>>,
}

impl Cluster {
    /// Over these workers.
    ///
    /// # Errors
    /// What the system said when threads could not be started.
    pub fn new(workers: Vec<Url>, links: Links, limits: Limits) -> std::io::Result<Self> {
        Ok(Self {
            workers,
            links,
            limits,
            runtime: Builder::new_multi_thread()
                .enable_all()
                .thread_name("chaff-engine")
                .thread_stack_size(STACK)
                .build()?,
            last: Mutex::new(None),
        })
    }

    fn failed(&self, why: String) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
    }

    /// Attempts until one ends well, none is left, or no worker is.
    async fn attempts(&self, job: &Job<'_>) -> Option<Table> {
        let files = match job.prints() {
            Ok(files) => files,
            Err(why) => {
                self.failed(why);
                return None;
            }
        };
        for _ in 0..=self.limits.retries {
            let standings = roll::call(&self.links, &self.workers, &files).await;
            let here: Vec<Url> = self
                .workers
                .iter()
                .zip(&standings)
                .filter(|(_, standing)| **standing == Standing::Here)
                .map(|(worker, _)| worker.clone())
                .collect();
            if here.is_empty() {
                self.failed(format!("no worker is left: {standings:?}"));
                return None;
            }
            match job.run(here, self.links.clone()).await {
                Ok(table) => return Some(table),
                Err(error) => self.failed(error.to_string()),
            }
        }
        None
    }
}

impl Engine for Cluster {
    fn ready(&self, source: &Source, request: &Request) -> Result<(), Unready> {
        let job = Job {
            source,
            request,
            databases: &Databases::default(),
        };
        let files = job.prints().map_err(Unready)?;
        job.check_types().map_err(Unready)?;
        let standings = self
            .runtime
            .block_on(roll::call(&self.links, &self.workers, &files));
        let mut gone = Vec::new();
        for (worker, standing) in self.workers.iter().zip(standings) {
            match standing {
                Standing::Here => {}
                Standing::Unfit(why) => {
                    return Err(Unready(format!("--workers {worker}: {why}")));
                }
                Standing::Gone(why) => gone.push(format!("{worker}: {why}")),
            }
        }
        if gone.len() == self.workers.len() {
            return Err(Unready(format!(
                "--workers: none can be reached, nothing was paid; {}",
                gone.join("; ")
            )));
        }
        for worker in gone {
            eprintln!("warning: --workers {worker}; the others do its part");
        }
        Ok(())
    }

    fn table(
        &self,
        source: &Source,
        request: &Request,
        databases: &Databases,
    ) -> Result<Table, Failure> {
        let job = Job {
            source,
            request,
            databases,
        };
        self.runtime.block_on(async {
            let deadline = Instant::now() + self.limits.deadline;
            match timeout_at(deadline, self.attempts(&job)).await {
                Ok(table) => table.ok_or(Failure),
                Err(_) => {
                    self.failed(format!("no answer within {:?}", self.limits.deadline));
                    Err(Failure)
                }
            }
        })
    }

    fn last_failure(&self) -> Option<String> {
        self.last
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// One question.
struct Job<'a> {
    source: &'a Source,
    request: &'a Request,
    databases: &'a Databases,
}

impl Job<'_> {
    fn paths(&self) -> impl Iterator<Item = &Path> {
        self.source.files.iter().map(|file| file.path())
    }

    /// What workers must see too.
    fn prints(&self) -> Result<Vec<Print>, String> {
        self.paths()
            .map(|path| {
                Print::of(path).map_err(|error| match error.kind() {
                    std::io::ErrorKind::InvalidData => format!(
                        "{}: not Parquet; workers read Parquet only: `query import LOG --output FOLDER` makes it, once",
                        path.display()
                    ),
                    _ => format!("{}: {error}", path.display()),
                })
            })
            .collect()
    }

    /// Whether columns can be read as what they stand for. Decided by schemas.
    fn check_types(&self) -> Result<(), String> {
        let format = self.source.format;
        let wanted = Roles::new(format, self.request).schema(format);
        for path in self.paths() {
            let schema = arrow_schema(path).map_err(|why| format!("{}: {why}", path.display()))?;
            for field in wanted.fields() {
                let Ok(found) = schema.field_with_name(field.name()) else {
                    return Err(format!(
                        "{}: no column is called {}, as those of an import are; over a cluster no other name will do",
                        path.display(),
                        field.name()
                    ));
                };
                let found = match found.data_type() {
                    DataType::Dictionary(_, value) => value.as_ref(),
                    other => other,
                };
                let (fits, what) = match field.data_type() {
                    DataType::Int64 => (found.is_integer(), "a whole number"),
                    DataType::Float64 => (found.is_numeric(), "a number"),
                    _ => (
                        matches!(
                            found,
                            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View
                        ),
                        "text",
                    ),
                };
                if !fits {
                    return Err(format!(
                        "{}: column {} is {found}, and must be {what}",
                        path.display(),
                        field.name()
                    ));
                }
            }
        }
        Ok(())
    }

    /// One attempt.
    async fn run(&self, workers: Vec<Url>, links: Links) -> Result<Table> {
        let mut folders: Vec<PathBuf> = self
            .paths()
            .filter_map(Path::parent)
            .map(Path::to_path_buf)
            .collect();
        folders.dedup();
        let context = session::of_coordinator(session::runtime(&folders)?, workers, links)?;
        let format = self.source.format;
        let roles = Roles::new(format, self.request);
        let peers = match (self.request.filter.asn, &self.databases.asns) {
            (Some(asn), Some(asns)) => {
                // Prefixes stay here: workers say which addresses there are.
                let all = roles.peers(self.flows(&context, &roles)?, self.request)?;
                let mut of_asn = tables::keys(&all.collect().await?)?;
                of_asn.retain(|p| p.parse().is_ok_and(|a| asns.lookup(a) == Some(asn)));
                of_asn.sort_unstable();
                Some(of_asn)
            }
            _ => None,
        };
        let flows = self.flows(&context, &roles)?;
        let plan = roles.plan(flows, self.request, peers.as_deref())?;
        tables::of_units(&plan.collect().await?, format, self.request, self.databases)
    }

    fn flows(&self, context: &SessionContext, roles: &Roles) -> Result<DataFrame> {
        let files = self
            .paths()
            .map(|path| {
                // As an address, so that no sign in a name is taken for a wildcard.
                let url = Url::from_file_path(path)
                    .map_err(|()| exec_datafusion_err!("a path is not absolute"))?;
                ListingTableUrl::try_new(url, None)
            })
            .collect::<Result<Vec<_>>>()?;
        let options =
            ListingOptions::new(Arc::new(ParquetFormat::default())).with_file_extension("");
        let config = ListingTableConfig::new_with_multi_paths(files)
            .with_listing_options(options)
            .with_schema(roles.schema(self.source.format));
        context.read_table(Arc::new(ListingTable::try_new(config)?))
    }
}

fn arrow_schema(path: &Path) -> Result<Schema, String> {
    let file = std::fs::File::open(path).map_err(|e| e.to_string())?;
    let metadata = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new())
        .map_err(|_| "its footer cannot be read".to_owned())?;
    Ok(metadata.schema().as_ref().clone())
}
