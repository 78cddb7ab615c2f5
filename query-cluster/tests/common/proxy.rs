//! A relay in front of a worker, so that something can happen to it in the middle of a query.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// Connections that a question makes before its plan: the roll call before paying, and that of the first attempt.
const BEFORE_PLAN: usize = 2;
/// Bytes on a connection after which a plan is on its way, and not only the beginning of HTTP/2.
const PLAN: usize = 1000;

pub(crate) struct Proxy {
    pub(crate) url: String,
    /// How often the event happened: 0 or 1.
    happened: Arc<AtomicUsize>,
}

type Event = Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>>;

impl Proxy {
    /// In front of a port; `event` happens once, when a plan is being sent, before the rest of it goes on.
    pub(crate) fn new(port: u16, event: impl FnOnce() + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let event: Event = Arc::new(Mutex::new(Some(Box::new(event))));
        let happened = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&happened);
        thread::spawn(move || {
            for (number, client) in listener.incoming().enumerate() {
                let Ok(client) = client else { return };
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else {
                    // Dropping it is what a dead worker's machine does.
                    continue;
                };
                let _ = client.set_nodelay(true);
                let _ = server.set_nodelay(true);
                let (back_from, back_to) = (server.try_clone(), client.try_clone());
                let (Ok(back_from), Ok(back_to)) = (back_from, back_to) else {
                    continue;
                };
                let watched = (number >= BEFORE_PLAN).then(|| Arc::clone(&event));
                let count = Arc::clone(&count);
                thread::spawn(move || relay(client, server, watched, &count));
                thread::spawn(move || relay(back_from, back_to, None, &AtomicUsize::new(0)));
            }
        });
        Self { url, happened }
    }

    pub(crate) fn happened(&self) -> bool {
        self.happened.load(Ordering::SeqCst) > 0
    }
}

fn relay(mut from: TcpStream, mut to: TcpStream, mut watched: Option<Event>, count: &AtomicUsize) {
    let mut block = [0; 4096];
    let mut bytes = 0;
    while let Ok(read @ 1..) = from.read(&mut block) {
        bytes += read;
        if bytes > PLAN
            && let Some(event) = watched.take()
            && let Some(event) = event.lock().unwrap().take()
        {
            count.fetch_add(1, Ordering::SeqCst);
            event();
        }
        if to.write_all(&block[..read]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
