//! Becomes nobody for real, so it is a process of its own without the test harness and its threads.

use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};

use chaff_confine::privileges::{Identity, PrivilegeError, drop_privileges, seal, verify};
use chaff_confine::sandbox::{self, Confined, Enforced, Kept};
use chaff_gateway::injector::{Injector, InjectorOptions};
use chaff_gateway::sys_net::open_cover_socket;
use chaff_sys::clock::monotonic;

fn main() -> ExitCode {
    if Identity::current().uid != 0 {
        println!("skipped: needs root");
        return ExitCode::SUCCESS;
    }
    let nobody = Identity::of("65534:65534").expect("numbers need no look-up");
    seal().expect("root may seal");
    let sink = UdpSocket::bind("127.0.0.1:0").expect("loopback");
    let local = "127.0.0.1:0".parse().expect("an address");
    let socket =
        open_cover_socket(local, sink.local_addr().expect("bound"), 7).expect("root may mark");
    let injector = Injector::spawn(InjectorOptions::new(socket)).expect("a thread");
    assert!(
        matches!(verify(nobody), Err(PrivilegeError::Kept { .. })),
        "root was taken for nobody"
    );

    let (own, other) = (everybodys("own"), everybodys("other"));
    drop_privileges(nobody).expect("root may become nobody");
    verify(nobody).expect("every thread is nobody without capabilities");
    assert!(injector.drop_capabilities());
    verify(nobody).expect("still so");

    let at = monotonic();
    injector.submit(at, b"still sends").expect("room");
    let mut buffer = [0; 64];
    let n = sink.recv(&mut buffer).expect("arrives");
    assert_eq!(&buffer[..n], b"still sends");
    let fresh = open_cover_socket(local, sink.local_addr().expect("bound"), 7);
    assert!(fresh.is_err(), "a mark was set without a capability");
    let confined = keeps_to_its_folder(own.path(), other.path());

    injector.submit(monotonic(), b"and still").expect("room");
    let n = sink.recv(&mut buffer).expect("arrives");
    assert_eq!(&buffer[..n], b"and still");
    let realtime = injector.is_realtime();
    assert_eq!(injector.stop().sent, 2);
    println!("privileges dropped; injector kept sending, real-time: {realtime}; {confined:?}");
    ExitCode::SUCCESS
}

/// A folder that every user may write.
fn everybodys(name: &str) -> tempfile::TempDir {
    let folder = tempfile::Builder::new()
        .prefix(name)
        .tempdir()
        .expect("a folder");
    fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).expect("its owner may");
    folder
}

fn keeps_to_its_folder(own: &Path, other: &Path) -> Confined {
    let server = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = server.local_addr().expect("bound");
    fs::write(other.join("before"), "x").expect("permissions allow it");
    let ran = Command::new("/bin/true").status();
    assert!(ran.is_ok_and(|s| s.success()), "programs run before");
    assert!(sandbox::verify().is_err(), "no filter yet");

    let confined = sandbox::confine(&Kept {
        folders: vec![own.to_owned()],
        tcp_ports: vec![53],
    })
    .expect("confines");
    sandbox::verify().expect("every thread is filtered");
    let refused =
        |what: std::io::Result<()>| what.is_err_and(|e| e.kind() == ErrorKind::PermissionDenied);
    assert!(refused(Command::new("/bin/true").status().map(drop)));
    assert!(refused(
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER).map_err(Into::into)
    ));
    fs::write(own.join("now"), "x").expect("its own folder stays");
    fs::rename(own.join("now"), own.join("then")).expect("its own folder stays");
    assert_eq!(fs::read(other.join("before")).expect("reading stays"), b"x");
    if confined.files == Enforced::No {
        println!("this kernel has no Landlock: files and TCP not tried");
        return confined;
    }
    assert!(refused(fs::write(other.join("now"), "x")));
    assert!(refused(fs::remove_file(other.join("before"))));
    if confined.files == Enforced::Fully {
        assert!(refused(TcpStream::connect(address).map(drop)));
        assert!(refused(TcpListener::bind("127.0.0.1:0").map(drop)));
    }
    confined
}
