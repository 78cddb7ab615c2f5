//! What the alerts learnt, as it is stored ([`chaff_engine::check_history`]).
//!
//! Input: the file.
//!
//! - What the check accepts, a gateway takes, whatever its devices are; what it writes then is accepted again.
//! - A gateway that took it watches traffic without a panic.

use chaff_abi::{Dir, Mac, Nanos};
use chaff_engine::{Config, Device, Gateway, Parts, check_history};

use crate::Seeds;

/// See the module.
pub fn run(data: &[u8]) {
    let accepted = check_history(data).is_ok();
    let made = gateway(data);
    if accepted {
        let mut gateway = made.unwrap();
        use_it(&mut gateway);
        check_history(&gateway.history()).unwrap();
    }
}

fn gateway(history: &[u8]) -> Option<Gateway> {
    let device = Device {
        label: "cam".into(),
        mac: Some(Mac([2, 0, 0, 0, 0, 1])),
        ip: Vec::new(),
        cover: false,
    };
    let config = Config {
        devices: vec![device],
        ..Config::default()
    };
    let parts = Parts {
        history: history.to_vec(),
        ..Parts::default()
    };
    Gateway::new(config, parts, [0; 32], Nanos::from_secs(10)).ok()
}

fn use_it(gateway: &mut Gateway) {
    let frame = frame();
    for s in 10..60 {
        gateway.handle_frame(Nanos::from_secs(s), Dir::Out, &frame, frame.len());
    }
    gateway.finish(Nanos::from_secs(700));
    while gateway.poll_event().is_some() {}
    let _unknown = gateway.accept(1);
}

/// UDP from the device.
fn frame() -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 32];
    frame.extend([0, 0, 0, 0, 64, 17, 0, 0, 192, 168, 1, 9, 10, 0, 0, 1]);
    frame.extend([0x13, 0x88, 0x22, 0xb8, 0, 12, 0, 0, 1, 2, 3, 4]);
    frame
}

/// See [`crate::Target::seeds`].
pub fn seeds() -> Seeds {
    let mut used = gateway(b"").unwrap();
    use_it(&mut used);
    vec![
        ("empty".into(), Vec::new()),
        ("used".into(), used.history()),
        ("no-version".into(), b"{\"cam\":{\"peers\":[]}}".to_vec()),
    ]
}
