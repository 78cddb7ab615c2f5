//! Becomes nobody for real, so it is a process of its own without the test harness and its threads.

use std::net::UdpSocket;
use std::process::ExitCode;

use chaff_gateway::injector::{Injector, InjectorOptions};
use chaff_gateway::privileges::{Identity, PrivilegeError, drop_privileges, seal, verify};
use chaff_gateway::sys_net::{monotonic_now, open_cover_socket};

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

    drop_privileges(nobody).expect("root may become nobody");
    verify(nobody).expect("every thread is nobody without capabilities");
    assert!(injector.drop_capabilities());
    verify(nobody).expect("still so");

    let at = monotonic_now();
    injector.submit(at, b"still sends").expect("room");
    let mut buffer = [0; 64];
    let n = sink.recv(&mut buffer).expect("arrives");
    assert_eq!(&buffer[..n], b"still sends");
    let fresh = open_cover_socket(local, sink.local_addr().expect("bound"), 7);
    assert!(fresh.is_err(), "a mark was set without a capability");
    let realtime = injector.is_realtime();
    assert_eq!(injector.stop().sent, 1);
    println!("privileges dropped; injector kept sending, real-time: {realtime}");
    ExitCode::SUCCESS
}
