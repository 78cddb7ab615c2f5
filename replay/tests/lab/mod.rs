//! Namespaces joined by veth pairs for one test, removed when dropped.
use std::marker::PhantomData;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use chaff_abi::Nanos;
use chaff_replay::Place;
use chaff_replay::sys::{self, RecvBatch, SendBatch};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Three namespaces: `lan` and `wan` are each joined to the middle one.
pub(crate) struct Lab {
    prefix: String,
    // A namespace belongs to the test that made it.
    _not_send: PhantomData<*const ()>,
}

fn ip(args: &str) {
    let done = Command::new("ip")
        .args(args.split_whitespace())
        .output()
        .expect("the program ip");
    assert!(
        done.status.success(),
        "ip {args}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
}

impl Lab {
    /// `None`, with a word why, where namespaces cannot be made.
    pub(crate) fn new() -> Option<Self> {
        if std::env::var_os("CHAFF_UNPRIVILEGED").is_some() {
            println!("skipped: CHAFF_UNPRIVILEGED is set");
            return None;
        }
        let prefix = format!(
            "chaff-replay-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let made = Command::new("ip")
            .args(["netns", "add", &format!("{prefix}-lan")])
            .output();
        if !made.is_ok_and(|m| m.status.success()) {
            println!("skipped: needs CAP_SYS_ADMIN and CAP_NET_ADMIN to make namespaces");
            return None;
        }
        let lab = Self {
            prefix,
            _not_send: PhantomData,
        };
        for side in ["mid", "wan"] {
            ip(&format!("netns add {}", lab.ns(side)));
        }
        for side in ["lan", "mid", "wan"] {
            // Without IPv6 the kernel itself sends nothing.
            let quiet = ["all", "default"].map(|c| format!("net.ipv6.conf.{c}.disable_ipv6=1"));
            let _ = Command::new("ip")
                .args(["netns", "exec", &lab.ns(side), "sysctl", "-qw"])
                .args(quiet)
                .output();
        }
        for side in ["lan", "wan"] {
            let (end, mid) = (lab.ns(side), lab.ns("mid"));
            ip(&format!(
                "link add {side}0 netns {end} type veth peer name to-{side} netns {mid}"
            ));
            ip(&format!("-n {end} link set {side}0 up"));
            ip(&format!("-n {mid} link set to-{side} up"));
        }
        Some(lab)
    }

    pub(crate) fn ns(&self, side: &str) -> String {
        format!("{}-{side}", self.prefix)
    }

    pub(crate) fn run_ip(&self, side: &str, args: &str) {
        ip(&format!("-n {} {args}", self.ns(side)));
    }

    /// The outer end of a side.
    pub(crate) fn end(&self, side: &str) -> Place {
        Place {
            name: format!("{side}0"),
            netns: Some(self.ns(side)),
        }
    }

    /// Joins both sides by a learning bridge in the middle.
    pub(crate) fn bridge(&self) {
        self.run_ip("mid", "link add br0 type bridge mcast_snooping 0");
        for side in ["lan", "wan"] {
            self.run_ip("mid", &format!("link set to-{side} master br0"));
        }
        self.run_ip("mid", "link set br0 up");
    }

    /// A receiver in the middle for what a side's outer end sends.
    pub(crate) fn listen(&self, side: &str) -> OwnedFd {
        sys::in_netns(Some(&self.ns("mid")), || {
            sys::open_receiver(sys::interface(&format!("to-{side}"))?.index)
        })
        .expect("a receiver")
    }

    /// A sender in the middle towards a side's outer end.
    pub(crate) fn speak(&self, side: &str) -> OwnedFd {
        sys::in_netns(Some(&self.ns("mid")), || {
            sys::open_sender(sys::interface(&format!("to-{side}"))?.index)
        })
        .expect("a sender")
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for side in ["lan", "mid", "wan"] {
            let _ = Command::new("ip")
                .args(["netns", "del", &self.ns(side)])
                .output();
        }
    }
}

/// Everything queued at a receiver: kernel times and bytes.
pub(crate) fn drain(fd: &OwnedFd) -> Vec<(Nanos, Vec<u8>)> {
    let mut batch = RecvBatch::default();
    let mut out = Vec::new();
    while batch
        .receive(fd.as_fd(), |r| out.push((r.at, r.bytes.to_vec())))
        .is_ok()
    {}
    out
}

/// Runs `f` while a forwarder in the middle carries frames from `lan` to `wan`: `each` gets a frame and returns what
/// leaves for it.
pub(crate) fn forwarding<T>(
    lab: &Lab,
    mut each: impl FnMut(&[u8]) -> Vec<Vec<u8>> + Send,
    f: impl FnOnce() -> T,
) -> T {
    let (from, to) = (lab.listen("lan"), lab.speak("wan"));
    let stop = AtomicBool::new(false);
    thread::scope(|s| {
        s.spawn(|| {
            let mut received = RecvBatch::default();
            let mut sending = SendBatch::default();
            while !stop.load(Ordering::Relaxed) {
                sys::wait(from.as_fd(), false, 10);
                let mut out = Vec::new();
                let _ = received.receive(from.as_fd(), |r| out.extend(each(r.bytes)));
                for frame in out {
                    sending
                        .send(to.as_fd(), std::iter::once(frame.as_slice()))
                        .expect("forwarding");
                }
            }
        });
        let result = f();
        thread::sleep(Duration::from_millis(1));
        stop.store(true, Ordering::Relaxed);
        result
    })
}
