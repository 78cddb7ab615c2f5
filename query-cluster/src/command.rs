//! The command line.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use chaff_query::command::Asked;
use clap::{Args, Parser, Subcommand};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use url::Url;

use crate::engine::{Cluster, Limits};
use crate::link::{Access, Links, worker_url};
use crate::worker;

/// Private answers to questions about flow logs, computed on several machines.
///
/// The answers are those of `query`: the same questions, ledger, noise and kept answers, all of which stay with the
/// coordinator. Workers compute exact tables and have no privacy: whoever reaches one reads every row.
#[derive(Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 done, 2 refused: usage, files, workers, ledger, budget.

Examples, on one machine:
  query import log_tcp_complete --output flows/
  query-cluster worker --bind 127.0.0.1:50051 --data flows/
  query-cluster query --workers http://127.0.0.1:50051,http://127.0.0.1:50052 volume-on-domain --domain video.example.net --data flows/ --ledger site.ledger --epsilon 0.5 --bounds 0..1000000
And on several, with certificates of one authority:
  query-cluster worker --bind 10.0.0.2:50051 --data /data/flows --tls-cert w2.pem --tls-key w2.key --tls-ca site.pem
  query-cluster query --workers https://10.0.0.2:50051,https://10.0.0.3:50051 --tls-cert c.pem --tls-key c.key --tls-ca site.pem user-count --data /data/flows --ledger site.ledger --epsilon 0.5"
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Compute for coordinators. **Whoever reaches the port reads every row below --data.**
    Worker(Serve),
    /// Ask a question, as with `query`.
    Query(Box<Ask>),
}

#[derive(Args)]
struct Serve {
    /// Where to listen; beyond this machine only with TLS.
    #[arg(long, default_value = "127.0.0.1:50051", value_name = "ADDRESS:PORT")]
    bind: SocketAddr,
    /// Folders of Parquet files that plans may read; nothing else is read, and nothing written.
    #[arg(long, num_args = 1.., required = true, value_name = "FOLDER")]
    data: Vec<PathBuf>,
    #[command(flatten)]
    access: Access,
}

#[derive(Args)]
struct Ask {
    /// Where workers listen, with commas between them.
    #[arg(long, value_delimiter = ',', required = true, value_name = "URL,URL")]
    workers: Vec<String>,
    /// Seconds after which there is no answer.
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=86_400), value_name = "S")]
    deadline: u64,
    #[command(flatten)]
    access: Access,
    #[command(flatten)]
    asked: Asked,
}

/// Carries out a command.
///
/// # Errors
/// One sentence for people.
pub fn run(cli: Cli) -> Result<()> {
    match cli.command {
        Command::Worker(serve) => serve.run(),
        Command::Query(ask) => ask.run(),
    }
}

impl Serve {
    fn run(&self) -> Result<()> {
        let tls = self.access.tls()?;
        worker::check_bind(self.bind, tls.is_some(), self.access.insecure_network)
            .map_err(anyhow::Error::msg)?;
        for folder in &self.data {
            std::fs::read_dir(folder).with_context(|| format!("--data {}", folder.display()))?;
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .thread_stack_size(crate::engine::STACK)
            .build()?;
        runtime.block_on(async {
            let bind = || format!("--bind {}", self.bind);
            let listener = TcpListener::bind(self.bind).await.with_context(bind)?;
            let mut end = signal(SignalKind::terminate())?;
            println!("listening on {}", listener.local_addr()?);
            std::io::stdout().flush()?;
            let stop = async move {
                tokio::select! {
                    _ = end.recv() => {}
                    _ = tokio::signal::ctrl_c() => {}
                }
            };
            worker::serve(listener, &self.data, tls, stop)
                .await
                .map_err(anyhow::Error::msg)
        })
    }
}

impl Ask {
    fn run(&self) -> Result<()> {
        let tls = self.access.tls()?;
        let mut workers: Vec<Url> = Vec::new();
        for text in &self.workers {
            let url = worker_url(text, tls.is_some(), self.access.insecure_network)?;
            if !workers.contains(&url) {
                workers.push(url);
            }
        }
        let limits = Limits {
            deadline: Duration::from_secs(self.deadline),
            ..Limits::default()
        };
        let engine = Cluster::new(workers, Links::new(tls), limits)?;
        // What an engine's thread has to say may show rows.
        let say = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if std::thread::current().name() == Some("main") {
                say(info);
            }
        }));
        self.asked.answer(&engine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
