//! A device, a gateway and a server in network namespaces, and how to act in each.
//!
//! `dev0 (10.77.1.2) - lan0 [gateway] wan0 - srv0 (10.77.2.2)`, IPv4 forwarding on in the gateway, checksums complete
//! on the end hosts' interfaces.

use std::fs::File;
use std::net::UdpSocket;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sched::{CloneFlags, setns};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Three namespaces; removed when dropped.
pub struct Home {
    tag: String,
}

pub const DEVICE_IP: [u8; 4] = [10, 77, 1, 2];
pub const SERVER_IP: [u8; 4] = [10, 77, 2, 2];

fn ip(line: &str) {
    let out = Command::new("ip")
        .args(line.split_whitespace())
        .output()
        .expect("ip");
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "ip {line}: {stderr}");
}

impl Home {
    /// `None`, with a line that says why, where namespaces are not allowed.
    pub fn new() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: namespaces need root");
            return None;
        }
        if Command::new("ip").arg("-V").output().is_err() {
            println!("skipped: no `ip` (package iproute2)");
            return None;
        }
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let tag = format!("chm{}-{n}", std::process::id());
        let home = Self { tag };
        for ns in ["dev", "gw", "srv"] {
            ip(&format!("netns add {}", home.ns(ns)));
            home.within(ns, || {
                // Neighbour discovery and the like would be counted too, wherever they come from.
                for scope in ["all", "default"] {
                    let path = format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6");
                    let _ = std::fs::write(path, "1");
                }
            });
            ip(&format!("-n {} link set lo up", home.ns(ns)));
        }
        let (dev, gw, srv) = (home.ns("dev"), home.ns("gw"), home.ns("srv"));
        ip(&format!(
            "-n {gw} link add lan0 type veth peer name dev0 netns {dev}"
        ));
        ip(&format!(
            "-n {gw} link add wan0 type veth peer name srv0 netns {srv}"
        ));
        for line in [
            format!("-n {dev} addr add 10.77.1.2/24 dev dev0"),
            format!("-n {gw} addr add 10.77.1.1/24 dev lan0"),
            format!("-n {gw} addr add 10.77.2.1/24 dev wan0"),
            format!("-n {srv} addr add 10.77.2.2/24 dev srv0"),
            format!("-n {dev} link set dev0 up"),
            format!("-n {gw} link set lan0 up"),
            format!("-n {gw} link set wan0 up"),
            format!("-n {srv} link set srv0 up"),
            format!("-n {dev} route add default via 10.77.1.1"),
            format!("-n {srv} route add default via 10.77.2.1"),
        ] {
            ip(&line);
        }
        home.within("gw", || {
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("forwarding");
        });
        Some(home)
    }

    pub fn ns(&self, name: &str) -> String {
        format!("{}-{name}", self.tag)
    }

    pub fn ip(&self, ns: &str, line: &str) {
        ip(&format!("-n {} {line}", self.ns(ns)));
    }

    /// Runs `f` on a thread that lives in a namespace.
    pub fn within<T: Send>(&self, ns: &str, f: impl FnOnce() -> T + Send) -> T {
        let file = File::open(format!("/run/netns/{}", self.ns(ns))).expect("namespace");
        std::thread::scope(|s| {
            let t = s.spawn(move || {
                setns(&file, CloneFlags::CLONE_NEWNET).expect("setns");
                f()
            });
            t.join().expect("thread")
        })
    }

    /// A UDP socket bound in a namespace; it keeps living there.
    pub fn socket(&self, ns: &str, bind: &str) -> UdpSocket {
        self.within(ns, || UdpSocket::bind(bind).expect("bind"))
    }
}

/// Sends one raw frame out of an interface of the caller's namespace.
#[allow(unsafe_code, reason = "no safe wrapper builds a link-layer address")]
pub fn send_frame(interface: &str, frame: &[u8]) {
    use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
    let name = std::ffi::CString::new(interface).expect("a name");
    // SAFETY: a NUL-terminated string that outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    assert!(index > 0, "no interface {interface}");
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0) };
    assert!(fd >= 0, "AF_PACKET socket");
    // SAFETY: a new descriptor of ours.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: all zero is a valid address.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = libc::AF_PACKET as u16;
    to.sll_ifindex = index as i32;
    to.sll_halen = 6;
    // SAFETY: frame and address outlive the call and are as long as said.
    let n = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const to).cast(),
            size_of::<libc::sockaddr_ll>() as u32,
        )
    };
    assert_eq!(
        n,
        frame.len() as isize,
        "{}",
        std::io::Error::last_os_error()
    );
}

impl Drop for Home {
    fn drop(&mut self) {
        for ns in ["dev", "gw", "srv"] {
            let _ = Command::new("ip")
                .args(["netns", "del", &self.ns(ns)])
                .output();
        }
    }
}
