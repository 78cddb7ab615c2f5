//! libpcap, where the system has it: the compiler of capture filters.
//!
//! It is loaded when a filter is given, so that the program neither needs it to be built nor to run. All unsafe code of
//! the filters is here.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};

use chaff_flow::Link;
use libloading::{Library, Symbol};

use super::bpf::{Instruction, Program};

/// Names under which systems have it, the usual one first.
const NAMES: [&str; 3] = ["libpcap.so.1", "libpcap.so.0.8", "libpcap.so"];
/// Largest frame that a filter accepts, bytes: libpcap's own limit.
const SNAPLEN: c_int = 262_144;
/// `PCAP_NETMASK_UNKNOWN`.
const NO_NETMASK: c_uint = 0xffff_ffff;

/// `struct bpf_program` of `pcap/bpf.h`.
#[repr(C)]
struct RawProgram {
    length: c_uint,
    instructions: *mut Instruction,
}

type OpenDead = unsafe extern "C" fn(c_int, c_int) -> *mut c_void;
type Compile =
    unsafe extern "C" fn(*mut c_void, *mut RawProgram, *const c_char, c_int, c_uint) -> c_int;
type GetError = unsafe extern "C" fn(*mut c_void) -> *mut c_char;
type FreeCode = unsafe extern "C" fn(*mut RawProgram);
type Close = unsafe extern "C" fn(*mut c_void);

/// Why a filter cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// The system has no libpcap.
    #[error(
        "filters need libpcap, which is not installed (Debian, Ubuntu: apt install libpcap0.8)"
    )]
    Missing,
    /// What libpcap says about the filter.
    #[error("filter `{filter}`: {message}")]
    Wrong {
        /// As given.
        filter: String,
        /// From libpcap.
        message: String,
    },
}

/// The loaded library.
pub struct Libpcap(Library);

impl Libpcap {
    /// Finds and loads it.
    ///
    /// # Errors
    /// [`FilterError::Missing`].
    pub fn load() -> Result<Self, FilterError> {
        for name in NAMES {
            // SAFETY: libpcap has no initialisers beyond those of the C library, and nothing of it is used after `self`.
            if let Ok(library) = unsafe { Library::new(name) } {
                return Ok(Self(library));
            }
        }
        Err(FilterError::Missing)
    }

    /// Compiles a filter for frames of a link type.
    ///
    /// # Errors
    /// [`FilterError::Wrong`] with the message of libpcap.
    pub fn compile(&self, filter: &str, link: Link) -> Result<Program, FilterError> {
        let wrong = |message: &str| FilterError::Wrong {
            filter: filter.into(),
            message: message.into(),
        };
        let text = CString::new(filter).map_err(|_| wrong("it has a zero byte"))?;
        let (open, compile, get_error, free, close) = self.functions().map_err(|e| wrong(&e))?;
        // SAFETY: two numbers; the result is checked.
        let handle = unsafe { open(dlt(link) as c_int, SNAPLEN) };
        if handle.is_null() {
            return Err(wrong("libpcap has no memory"));
        }
        let mut raw = RawProgram {
            length: 0,
            instructions: std::ptr::null_mut(),
        };
        // SAFETY: an open handle, a program to fill, and a C string, which all outlive the call.
        let rc = unsafe { compile(handle, &mut raw, text.as_ptr(), 1, NO_NETMASK) };
        let result = if rc == 0 {
            let length = raw.length as usize;
            let instructions = if length == 0 || raw.instructions.is_null() {
                Vec::new()
            } else {
                // SAFETY: libpcap filled the program: `length` instructions of the same layout, until `free`.
                unsafe { std::slice::from_raw_parts(raw.instructions, length) }.to_vec()
            };
            // SAFETY: a program that `compile` filled; it is not used after this.
            unsafe { free(&mut raw) };
            Ok(Program::new(instructions))
        } else {
            // SAFETY: an open handle; its error text is a C string that lives as long as the handle.
            let message = unsafe { CStr::from_ptr(get_error(handle)) }
                .to_string_lossy()
                .into_owned();
            Err(wrong(&message))
        };
        // SAFETY: an open handle, not used after this.
        unsafe { close(handle) };
        result
    }

    #[expect(
        clippy::type_complexity,
        reason = "five functions of C, named where they are used"
    )]
    fn functions(
        &self,
    ) -> Result<
        (
            Symbol<'_, OpenDead>,
            Symbol<'_, Compile>,
            Symbol<'_, GetError>,
            Symbol<'_, FreeCode>,
            Symbol<'_, Close>,
        ),
        String,
    > {
        // SAFETY: the types are those of `pcap/pcap.h`, unchanged since libpcap 0.8.
        unsafe {
            Ok((
                self.0.get(b"pcap_open_dead\0").map_err(|e| e.to_string())?,
                self.0.get(b"pcap_compile\0").map_err(|e| e.to_string())?,
                self.0.get(b"pcap_geterr\0").map_err(|e| e.to_string())?,
                self.0.get(b"pcap_freecode\0").map_err(|e| e.to_string())?,
                self.0.get(b"pcap_close\0").map_err(|e| e.to_string())?,
            ))
        }
    }
}

/// The number that programs use for a link type; on Linux it differs from that of files for raw IP only.
fn dlt(link: Link) -> u32 {
    match link {
        Link::RawIp => 12,
        other => other.to_pcap(),
    }
}
