//! Frames, medians and an empty program that the benchmarks share.
#![allow(
    unsafe_code,
    dead_code,
    unreachable_pub,
    reason = "the empty program is loaded by hand; each benchmark uses a part"
)]

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

/// An XDP program that only returns XDP_PASS.
pub struct EmptyXdp(OwnedFd);

#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    rest: [u64; 13],
}

#[repr(C)]
#[derive(Default)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    rest: [u64; 4],
}

const PROG_LOAD: i64 = 5;
const PROG_TEST_RUN: i64 = 10;
const TYPE_XDP: u32 = 6;

impl EmptyXdp {
    pub fn load() -> io::Result<Self> {
        // w0 = 2 (XDP_PASS); exit
        let program: [u64; 2] = [0x2_0000_00b4, 0x95];
        let mut attr = ProgLoad {
            prog_type: TYPE_XDP,
            insn_cnt: 2,
            insns: program.as_ptr() as u64,
            license: c"MIT".as_ptr() as u64,
            ..ProgLoad::default()
        };
        // SAFETY: the attribute and what it points to outlive the call.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                PROG_LOAD,
                &mut attr as *mut _,
                size_of::<ProgLoad>(),
            )
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel made this descriptor for us.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd as i32) }))
    }

    /// Nanoseconds per run; 0 when the kernel refuses.
    pub fn run(&self, frame: &[u8], repeat: u32) -> f64 {
        let mut attr = TestRun {
            prog_fd: self.0.as_raw_fd() as u32,
            data_size_in: frame.len() as u32,
            data_in: frame.as_ptr() as u64,
            repeat,
            ..TestRun::default()
        };
        // SAFETY: the attribute and the frame outlive the call; no output buffer is given.
        unsafe {
            libc::syscall(
                libc::SYS_bpf,
                PROG_TEST_RUN,
                &mut attr as *mut _,
                size_of::<TestRun>(),
            );
        }
        attr.duration as f64
    }
}

/// Median; 0 when empty.
pub fn median(mut v: Vec<f64>) -> f64 {
    v.sort_by(f64::total_cmp);
    v.get(v.len() / 2).copied().unwrap_or(0.0)
}

/// A TCP frame over IPv4 whose source address depends on `n`.
pub fn v4(n: u32) -> Vec<u8> {
    let mut f = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    f.extend([0x45, 0, 0, 86, 0, 0, 0, 0, 64, 6, 0, 0]);
    f.extend(n.to_be_bytes());
    f.extend([203, 0, 113, 9]);
    f.extend(tcp());
    f
}

/// A TCP frame over IPv6 with a VLAN tag.
pub fn v6_vlan() -> Vec<u8> {
    let mut f = vec![
        2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x81, 0, 0, 7, 0x86, 0xdd,
    ];
    f.extend([0x60, 0, 0, 0, 0, 66, 6, 64]);
    f.extend([0xfd; 16]);
    f.extend([0x20; 16]);
    f.extend(tcp());
    f
}

fn tcp() -> Vec<u8> {
    let mut s = vec![
        0x9c, 0x40, 1, 0xbb, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x18, 1, 0, 0, 0, 0, 0,
    ];
    s.extend([0xaa; 46]);
    s
}
