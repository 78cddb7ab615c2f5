use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use chaff_abi::FlowKey;

use super::{ProcTable, Process};

/// Time between two readings of `/proc`, as NFStream's.
const INTERVAL: Duration = Duration::from_millis(100);
/// A reading that takes long is given this many times as long to rest: at most a fifth of one processor.
const REST: u32 = 4;

/// Reads `/proc` again and again in a thread of its own, and remembers what it saw for a while.
#[derive(Debug)]
pub struct Watch {
    table: Arc<Mutex<ProcTable>>,
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Reads once, then starts the thread; sockets are remembered for `keep` after they are gone. Where no thread can be
    /// had, that one reading is all.
    pub fn start(keep: Duration) -> Self {
        let table = Arc::new(Mutex::new(ProcTable::read()));
        let (stop, stopped) = mpsc::channel();
        let shared = table.clone();
        let thread = thread::Builder::new()
            .name("processes".into())
            .spawn(move || {
                let mut rest = INTERVAL;
                while stopped.recv_timeout(rest) == Err(mpsc::RecvTimeoutError::Timeout) {
                    let started = Instant::now();
                    let new = ProcTable::read();
                    rest = INTERVAL.max(started.elapsed() * REST);
                    let mut table = shared.lock().unwrap_or_else(PoisonError::into_inner);
                    table.replace(new, keep);
                }
            });
        Self {
            table,
            stop: Some(stop),
            thread: thread.ok(),
        }
    }

    /// The owner of the first of these keys that has one.
    pub fn lookup(&self, keys: &[FlowKey]) -> Option<Process> {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        keys.iter().find_map(|k| table.lookup(k))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}
