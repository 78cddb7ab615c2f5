//! The device that replay picks by itself, against the list of the shared captures.
use std::path::Path;

use chaff_replay::{Capture, Devices, LoadOptions};

#[test]
fn the_device_of_a_capture_is_found_without_being_named() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/iot");
    let list = dir.join("devices.csv");
    let Ok(rows) = std::fs::read_to_string(&list) else {
        println!("skipped: no captures in ../shared/data/iot");
        return;
    };
    let (mut right, mut all) = (0, 0);
    for row in rows.lines().skip(1) {
        let cells: Vec<&str> = row.split(',').collect();
        let want = Devices::parse(&[cells[1].to_owned()], None).unwrap();
        for file in std::fs::read_dir(dir.join(cells[0])).unwrap() {
            let file = file.unwrap().path();
            let capture = Capture::load(std::slice::from_ref(&file), &LoadOptions::default());
            let found = Devices::detect(&capture.unwrap());
            all += 1;
            if found.as_ref().ok() == Some(&want) {
                right += 1;
            } else {
                println!("{}: {found:?} instead of {want}", file.display());
            }
        }
    }
    println!("{right} of {all}");
    assert!(right * 100 >= all * 95, "{right} of {all}");
}
