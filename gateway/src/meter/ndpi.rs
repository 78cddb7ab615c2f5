//! nDPI, where the system has it: its application names beside our own.
//!
//! The library is loaded when the plugin `ndpi` is asked for, so that the program neither needs it to be built nor to run.
//! It is a large parser in C that reads what strangers send: it runs only where somebody asked for it. Its interface
//! differs between releases without a change of symbol names, so that only the release whose structures are written
//! here is accepted: 4.2, that of Debian 12. All unsafe code of the plugin is here.

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_int, c_uchar, c_uint, c_void};
use std::ptr::NonNull;
use std::sync::Arc;

use chaff_flow::plugin::{Extension, FlowView, Next, PacketView, Plugin, column};
use chaff_flow::{Column, Kind, Value};
use libloading::Library;

/// Names under which systems have it.
const NAMES: [&str; 2] = ["libndpi.so.4.2", "libndpi.so"];
/// Beginning of the revision that [`RawProtocol`] and the functions' types are those of.
const REVISION: &str = "4.2.";
/// What holds `NDPI_NUM_BITS` (512) bits, one a protocol.
type Bitmask = [u32; 16];
/// Packets of a flow that nDPI sees, unless said otherwise: NFStream's number.
const PACKETS: u32 = 20;
/// Longest name of an application that is asked for, bytes with the zero.
const NAME_BYTES: usize = 64;

/// `ndpi_protocol` of release 4.2: returned in a register.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct RawProtocol {
    master: u16,
    application: u16,
    category: c_int,
}

impl RawProtocol {
    /// `NDPI_PROTOCOL_UNKNOWN` is 0.
    const fn is_known(self) -> bool {
        self.application != 0 || self.master != 0
    }
}

type Process =
    unsafe extern "C" fn(*mut c_void, *mut c_void, *const c_uchar, u16, u64) -> RawProtocol;
type GiveUp = unsafe extern "C" fn(*mut c_void, *mut c_void, u8, *mut u8) -> RawProtocol;

/// The loaded library's functions that are called for packets and flows.
struct Api {
    flow_bytes: usize,
    allocate: unsafe extern "C" fn(usize) -> *mut c_void,
    free_flow: unsafe extern "C" fn(*mut c_void),
    process: Process,
    more: unsafe extern "C" fn(*mut c_void, *mut c_void) -> u8,
    give_up: GiveUp,
    name: unsafe extern "C" fn(*mut c_void, RawProtocol, *mut c_char, c_uint) -> *mut c_char,
    category: unsafe extern "C" fn(*mut c_void, c_int) -> *const c_char,
    exit: unsafe extern "C" fn(*mut c_void),
    /// Last: the pointers above point into it.
    _library: Library,
}

/// Why nDPI cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NdpiError {
    /// The system has no nDPI.
    #[error(
        "plugin ndpi needs libndpi 4.2, which is not installed (Debian 12: apt install libndpi4.2)"
    )]
    Missing,
    /// Another release, whose structures differ.
    #[error("plugin ndpi needs libndpi 4.2; the installed one says it is `{0}`")]
    Revision(String),
    /// A function is not there, or the library would not start.
    #[error("plugin ndpi: {0}")]
    Broken(String),
    /// An option that there is not, or a value out of its range.
    #[error("plugin ndpi: `{0}`: there is one option, packets=1..255")]
    Option(String),
}

/// The plugin that options such as `packets=8` describe; `None` options are the defaults.
///
/// Columns: `application`, `category` (nDPI's names; `Unknown` and `Unspecified` where it finds nothing), `guessed` (1 if
/// by port or address only).
///
/// # Errors
/// [`NdpiError`].
pub fn plugin(options: Option<&str>) -> Result<Extension, NdpiError> {
    let mut packets = PACKETS;
    for option in options.into_iter().flat_map(|o| o.split(',')) {
        packets = option
            .strip_prefix("packets=")
            .and_then(|n| n.parse::<u8>().ok())
            .filter(|&n| n > 0)
            .ok_or_else(|| NdpiError::Option(option.into()))?
            .into();
    }
    Ok(Ndpi::load(packets)?.into())
}

/// One detection module, its caches included.
struct Module {
    api: Arc<Api>,
    raw: NonNull<c_void>,
}

// SAFETY: a module has no tie to the thread that made it; it is used by one at a time, through a `RefCell`.
unsafe impl Send for Module {}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: an open module, not used after this. Flows do not point into it.
        unsafe { (self.api.exit)(self.raw.as_ptr()) };
    }
}

/// nDPI's memory of one flow, 688 bytes and what it allocates for names.
struct Memory {
    api: Arc<Api>,
    raw: NonNull<c_void>,
}

// SAFETY: the memory belongs to this value alone, and freeing it is a call of `free`.
unsafe impl Send for Memory {}

impl Memory {
    fn new(api: &Arc<Api>) -> Option<Self> {
        // SAFETY: a size; the result is checked.
        let raw = NonNull::new(unsafe { (api.allocate)(api.flow_bytes) })?;
        // SAFETY: `flow_bytes` bytes were allocated; a new flow is all zero.
        unsafe { raw.cast::<u8>().write_bytes(0, api.flow_bytes) };
        Some(Self {
            api: Arc::clone(api),
            raw,
        })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: a flow that `new` made, not used after this.
        unsafe { (self.api.free_flow)(self.raw.as_ptr()) };
    }
}

/// What is known of a flow.
struct State {
    /// None as soon as nothing more is wanted, or without memory.
    memory: Option<Memory>,
    found: RawProtocol,
    seen: u32,
}

struct Ndpi {
    module: RefCell<Module>,
    packets: u32,
}

impl Ndpi {
    fn load(packets: u32) -> Result<Self, NdpiError> {
        // SAFETY: nDPI has no initialisers beyond those of the C library.
        let found = NAMES.iter().find_map(|n| unsafe { Library::new(n) }.ok());
        let library = found.ok_or(NdpiError::Missing)?;
        let broken = |e: libloading::Error| NdpiError::Broken(e.to_string());

        // SAFETY: the type of `ndpi_revision` in every release.
        let revision =
            unsafe { library.get::<unsafe extern "C" fn() -> *const c_char>(b"ndpi_revision\0") };
        // SAFETY: it returns a string that the library holds.
        let revision = unsafe { text(revision.map_err(broken)?()) };
        if !revision.starts_with(REVISION) {
            return Err(NdpiError::Revision(revision));
        }

        // SAFETY: the types are those of `ndpi_api.h` in release 4.2, which the library says it is.
        let (init, all, finish, flow_bytes, api) = unsafe {
            let init = *library
                .get::<unsafe extern "C" fn(c_uint) -> *mut c_void>(b"ndpi_init_detection_module\0")
                .map_err(broken)?;
            let all = *library
                .get::<unsafe extern "C" fn(*mut c_void, *const Bitmask)>(
                    b"ndpi_set_protocol_detection_bitmask2\0",
                )
                .map_err(broken)?;
            let finish = *library
                .get::<unsafe extern "C" fn(*mut c_void)>(b"ndpi_finalize_initialization\0")
                .map_err(broken)?;
            let flow_bytes = *library
                .get::<unsafe extern "C" fn() -> u32>(
                    b"ndpi_detection_get_sizeof_ndpi_flow_struct\0",
                )
                .map_err(broken)?;
            let api = Api {
                flow_bytes: 0,
                allocate: *library.get(b"ndpi_flow_malloc\0").map_err(broken)?,
                free_flow: *library.get(b"ndpi_free_flow\0").map_err(broken)?,
                process: *library
                    .get(b"ndpi_detection_process_packet\0")
                    .map_err(broken)?,
                more: *library
                    .get(b"ndpi_extra_dissection_possible\0")
                    .map_err(broken)?,
                give_up: *library.get(b"ndpi_detection_giveup\0").map_err(broken)?,
                name: *library.get(b"ndpi_protocol2name\0").map_err(broken)?,
                category: *library.get(b"ndpi_category_get_name\0").map_err(broken)?,
                exit: *library
                    .get(b"ndpi_exit_detection_module\0")
                    .map_err(broken)?,
                _library: library,
            };
            (init, all, finish, flow_bytes, api)
        };
        // SAFETY: no arguments.
        let flow_bytes = unsafe { flow_bytes() } as usize;
        let api = Arc::new(Api { flow_bytes, ..api });
        // SAFETY: 0 is `ndpi_no_prefs`; the result is checked.
        let raw = NonNull::new(unsafe { init(0) })
            .ok_or_else(|| NdpiError::Broken("the library did not start".into()))?;
        let module = Module { api, raw };
        // SAFETY: a new module, and a mask of the size that release 4.2 reads.
        unsafe {
            all(module.raw.as_ptr(), &[u32::MAX; 16]);
            finish(module.raw.as_ptr());
        }
        Ok(Self {
            module: RefCell::new(module),
            packets,
        })
    }

    fn see(&self, state: &mut State, packet: &PacketView<'_>) {
        let Some(memory) = &state.memory else { return };
        let module = self.module.borrow_mut();
        let length = u16::try_from(packet.ip_packet.len()).unwrap_or(u16::MAX);
        let (module, flow) = (module.raw.as_ptr(), memory.raw.as_ptr());
        // SAFETY: an open module, a flow, and `length` bytes that outlive the call, which keeps no pointer to them.
        state.found = unsafe {
            (memory.api.process)(
                module,
                flow,
                packet.ip_packet.as_ptr(),
                length,
                packet.at.0 / 1_000_000,
            )
        };
        state.seen += 1;
        // SAFETY: an open module and a flow.
        let more = || unsafe { (memory.api.more)(module, flow) } != 0;
        if state.found.is_known() && !more() {
            state.memory = None;
        }
    }
}

impl Plugin for Ndpi {
    type State = State;

    fn name(&self) -> &'static str {
        "ndpi"
    }

    fn columns(&self) -> Vec<Column> {
        vec![
            column(
                "ndpi_application",
                Kind::Text,
                "",
                "nDPI's name of the application, `Unknown` for none",
            ),
            column(
                "ndpi_category",
                Kind::Text,
                "",
                "nDPI's category, `Unspecified` for none",
            ),
            column(
                "ndpi_guessed",
                Kind::Unsigned,
                "",
                "1 if nDPI went by port or address only",
            ),
        ]
    }

    fn start(&self, _: &FlowView, packet: &PacketView<'_>) -> (State, Next) {
        let mut state = State {
            memory: Memory::new(&self.module.borrow().api),
            found: RawProtocol::default(),
            seen: 0,
        };
        self.see(&mut state, packet);
        (state, Next::Go)
    }

    fn update(&self, state: &mut State, _: &FlowView, packet: &PacketView<'_>) -> Next {
        if state.seen < self.packets {
            self.see(state, packet);
        }
        Next::Go
    }

    fn expire(&self, mut state: State, _: &FlowView, row: &mut Vec<Value>) {
        let module = self.module.borrow_mut();
        let (api, raw) = (&module.api, module.raw.as_ptr());
        let mut guessed = 0;
        if let (false, Some(memory)) = (state.found.is_known(), &state.memory) {
            // SAFETY: an open module, a flow, and a byte to write.
            state.found = unsafe { (api.give_up)(raw, memory.raw.as_ptr(), 1, &mut guessed) };
        }
        let mut name = [0 as c_char; NAME_BYTES];
        // SAFETY: an open module and a buffer of the length given, which is filled with a string.
        let name = unsafe {
            (api.name)(raw, state.found, name.as_mut_ptr(), NAME_BYTES as c_uint);
            name[NAME_BYTES - 1] = 0;
            text(name.as_ptr())
        };
        // SAFETY: an open module; the result is a string of the library or of the module.
        let category = unsafe { text((api.category)(raw, state.found.category)) };
        row.push(Value::Text(name));
        row.push(Value::Text(category));
        row.push(Value::Unsigned(guessed.into()));
    }
}

/// A string of C.
///
/// # Safety
/// Null, or a string with its zero.
unsafe fn text(string: *const c_char) -> String {
    if string.is_null() {
        return String::new();
    }
    // SAFETY: as the caller says.
    unsafe { CStr::from_ptr(string) }
        .to_string_lossy()
        .into_owned()
}
