//! Moving a generation of flows to user space.

use std::os::fd::BorrowedFd;

use chaff_abi::{FlowKey, FlowValue, Nanos};

use super::error::{MeterError, os_code};
use super::sys::{self, Plain as _};

/// How entries were moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrainMethod {
    /// Many entries per system call (Linux 5.6).
    Batch,
    /// One entry at a time.
    PerKey,
}

/// What one drain did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainReport {
    /// Flows handed over.
    pub flows: u64,
    /// System calls that moved them.
    pub calls: u64,
    /// Time until no program used the old generation any more.
    pub grace: Nanos,
    /// Time for all of it.
    pub took: Nanos,
    /// How.
    pub method: DrainMethod,
}

/// Buffers that are kept between drains.
#[derive(Debug)]
pub(super) struct Buffers {
    keys: Vec<FlowKey>,
    values: Vec<FlowValue>,
    method: DrainMethod,
}

/// Entries per call: 0.5 MB of buffer.
const BATCH: usize = 1024;

impl Buffers {
    pub(super) fn new() -> Self {
        Self {
            keys: vec![FlowKey::zeroed(); BATCH],
            values: vec![FlowValue::zeroed(); BATCH],
            method: DrainMethod::Batch,
        }
    }

    /// Moves all entries out of `map`, which no program uses any more; returns flows and calls.
    pub(super) fn empty(
        &mut self,
        map: BorrowedFd<'_>,
        mut f: impl FnMut(FlowKey, FlowValue),
    ) -> Result<(u64, u64, DrainMethod), MeterError> {
        let (mut flows, mut calls) = (0u64, 0u64);
        let failed = |e| MeterError::of("moving flows out of the kernel", e);
        if self.method == DrainMethod::Batch {
            let mut token = None;
            loop {
                calls += 1;
                let took = match sys::take_batch(map, &mut token, &mut self.keys, &mut self.values)
                {
                    Ok(took) => took,
                    Err(e) if os_code(&e) == Some(libc::ENOSPC) => {
                        // One bucket holds more than the buffer: unlikely, but possible.
                        let n = self.keys.len() * 2;
                        self.keys.resize(n, FlowKey::zeroed());
                        self.values.resize(n, FlowValue::zeroed());
                        continue;
                    }
                    Err(e) if os_code(&e) == Some(libc::EINVAL) && flows == 0 => {
                        self.method = DrainMethod::PerKey;
                        break;
                    }
                    Err(e) => return Err(failed(e)),
                };
                for (k, v) in self.keys.iter().zip(&self.values).take(took.count) {
                    f(*k, *v);
                }
                flows += took.count as u64;
                if took.end {
                    return Ok((flows, calls, DrainMethod::Batch));
                }
            }
        }
        // The map is idle, so reading and deleting separately loses nothing.
        while let Some(key) = sys::next_key::<FlowKey>(map, None).map_err(failed)? {
            if let Some(value) = sys::lookup::<_, FlowValue>(map, &key).map_err(failed)? {
                f(key, value);
                flows += 1;
            }
            sys::delete(map, &key).map_err(failed)?;
            calls += 3;
        }
        Ok((flows, calls, DrainMethod::PerKey))
    }
}
