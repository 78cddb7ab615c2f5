//! The only file of the gateway's library with `unsafe`: system calls that aya has no function for, and mapped memory.
#![allow(
    unsafe_code,
    reason = "system calls and mapped memory; every block says why it is sound"
)]

use std::ffi::CString;
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use chaff_abi::{
    DeviceKey, DirectRecord, FlowKey, FlowValue, HintHeader, MeterConfig, Owner, Reason,
    SlotCounters,
};

/// Types that cross the kernel border as bytes.
///
/// # Safety
/// Every bit pattern is a value, and there is no padding.
pub(crate) unsafe trait Plain: Copy {
    /// The value with all bits zero.
    fn zeroed() -> Self {
        // SAFETY: every bit pattern is a value.
        unsafe { MaybeUninit::zeroed().assume_init() }
    }

    /// Reads a value from the start of bytes; `None` when there are too few.
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < size_of::<Self>() {
            return None;
        }
        // SAFETY: enough bytes, any alignment, every bit pattern is a value.
        Some(unsafe { bytes.as_ptr().cast::<Self>().read_unaligned() })
    }
}

// SAFETY: integers and arrays of integers without padding; chaff-abi asserts the sizes.
unsafe impl Plain for FlowKey {}
// SAFETY: as above.
unsafe impl Plain for FlowValue {}
// SAFETY: as above.
unsafe impl Plain for DeviceKey {}
// SAFETY: as above.
unsafe impl Plain for DirectRecord {}
// SAFETY: as above.
unsafe impl Plain for Owner {}
// SAFETY: as above.
unsafe impl Plain for HintHeader {}
// SAFETY: as above.
unsafe impl Plain for MeterConfig {}
// SAFETY: as above.
unsafe impl Plain for SlotCounters {}
// SAFETY: an integer.
unsafe impl Plain for u32 {}
// SAFETY: an integer.
unsafe impl Plain for i32 {}
// SAFETY: an array of integers.
unsafe impl Plain for [u64; Reason::COUNT as usize] {}

const MAP_CREATE: i64 = 0;
const MAP_LOOKUP_ELEM: i64 = 1;
const MAP_UPDATE_ELEM: i64 = 2;
const MAP_DELETE_ELEM: i64 = 3;
const MAP_GET_NEXT_KEY: i64 = 4;
const OBJ_GET: i64 = 7;
const OBJ_GET_INFO_BY_FD: i64 = 15;
const MAP_LOOKUP_AND_DELETE_BATCH: i64 = 25;
const TYPE_ARRAY: u32 = 2;
const TYPE_ARRAY_OF_MAPS: u32 = 12;

/// `bpf_attr` of `BPF_MAP_CREATE`, its first fields.
#[repr(C)]
#[derive(Default)]
struct Create {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    inner_map_fd: u32,
}

/// `bpf_attr` of the element commands.
#[repr(C)]
#[derive(Default)]
struct Element {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// `bpf_attr` of the batch commands.
#[repr(C)]
#[derive(Default)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// `bpf_attr` of `BPF_OBJ_GET`.
#[repr(C)]
#[derive(Default)]
struct Object {
    path: u64,
    fd: u32,
    flags: u32,
}

/// `bpf_attr` of `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C)]
#[derive(Default)]
struct Info {
    fd: u32,
    len: u32,
    info: u64,
}

/// The first fields of `bpf_map_info`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct MapInfo {
    pub(super) kind: u32,
    pub(super) id: u32,
    pub(super) key_size: u32,
    pub(super) value_size: u32,
    pub(super) max_entries: u32,
    pub(super) flags: u32,
}

/// # Safety
/// Pointers inside `attr` must be valid for what `command` does with them.
unsafe fn bpf<A>(command: i64, attr: &mut A) -> io::Result<i64> {
    // SAFETY: the attribute is as large as said; the caller answers for the pointers inside.
    let rc = unsafe { libc::syscall(libc::SYS_bpf, command, attr as *mut A, size_of::<A>()) };
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(rc)
    }
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd() as u32
}

/// The root of a file system that is mounted nowhere (Linux 5.2, CAP_SYS_ADMIN).
pub(crate) fn unmounted(kind: &std::ffi::CStr) -> io::Result<OwnedFd> {
    const FSCONFIG_CMD_CREATE: u32 = 6;
    const CLOEXEC: u32 = 1;
    let checked = |rc: i64| {
        if rc < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(rc)
        }
    };
    // SAFETY: the name ends with a zero and outlives the call.
    let rc = checked(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), CLOEXEC) })?;
    // SAFETY: the kernel made this descriptor for us.
    let context = unsafe { OwnedFd::from_raw_fd(rc as i32) };
    let (nothing, fd) = (std::ptr::null::<u8>(), context.as_raw_fd());
    // SAFETY: this command takes no key and no value.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            fd,
            FSCONFIG_CMD_CREATE,
            nothing,
            nothing,
            0,
        )
    };
    checked(rc)?;
    // SAFETY: no pointers.
    let rc = checked(unsafe { libc::syscall(libc::SYS_fsmount, fd, CLOEXEC, 0) })?;
    // SAFETY: the kernel made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(rc as i32) })
}

/// Reads one element; `V` must be as large as the map's value (times CPUs for per-CPU maps: see [`lookup_per_cpu`]).
pub(crate) fn lookup<K: Plain, V: Plain>(map: BorrowedFd<'_>, key: &K) -> io::Result<Option<V>> {
    let mut value = V::zeroed();
    let mut attr = Element {
        map_fd: raw(map),
        key: key as *const K as u64,
        value: &mut value as *mut V as u64,
        ..Element::default()
    };
    // SAFETY: key and value outlive the call; callers pass the types that the map was made with.
    match unsafe { bpf(MAP_LOOKUP_ELEM, &mut attr) } {
        Ok(_) => Ok(Some(value)),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Reads element 0 of a per-CPU array on every possible CPU. `V`'s size must be a multiple of 8.
pub(super) fn lookup_per_cpu<V: Plain>(map: BorrowedFd<'_>, cpus: usize) -> io::Result<Vec<V>> {
    let key = 0u32;
    let mut values = vec![V::zeroed(); cpus];
    let mut attr = Element {
        map_fd: raw(map),
        key: &key as *const u32 as u64,
        value: values.as_mut_ptr() as u64,
        ..Element::default()
    };
    // SAFETY: the kernel writes one value per possible CPU, and `cpus` is that number.
    unsafe { bpf(MAP_LOOKUP_ELEM, &mut attr)? };
    Ok(values)
}

/// Writes one element.
pub(super) fn update<K: Plain, V: Plain>(
    map: BorrowedFd<'_>,
    key: &K,
    value: &V,
) -> io::Result<()> {
    let mut attr = Element {
        map_fd: raw(map),
        key: key as *const K as u64,
        value: value as *const V as u64,
        ..Element::default()
    };
    // SAFETY: key and value outlive the call; callers pass the types that the map was made with.
    unsafe { bpf(MAP_UPDATE_ELEM, &mut attr)? };
    Ok(())
}

/// Deletes one element; whether there was one.
pub(super) fn delete<K: Plain>(map: BorrowedFd<'_>, key: &K) -> io::Result<bool> {
    let mut attr = Element {
        map_fd: raw(map),
        key: key as *const K as u64,
        ..Element::default()
    };
    // SAFETY: the key outlives the call.
    match unsafe { bpf(MAP_DELETE_ELEM, &mut attr) } {
        Ok(_) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(e) => Err(e),
    }
}

/// The first key of a map, or the one after `key`.
pub(super) fn next_key<K: Plain>(map: BorrowedFd<'_>, key: Option<&K>) -> io::Result<Option<K>> {
    let mut next = K::zeroed();
    let mut attr = Element {
        map_fd: raw(map),
        key: key.map_or(0, |k| k as *const K as u64),
        value: &mut next as *mut K as u64,
        ..Element::default()
    };
    // SAFETY: both keys outlive the call.
    match unsafe { bpf(MAP_GET_NEXT_KEY, &mut attr) } {
        Ok(_) => Ok(Some(next)),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Outcome of one batch.
pub(super) struct Took {
    pub(super) count: usize,
    pub(super) end: bool,
}

/// Moves entries out of a hash map, as many as fit. `token` is where to go on; `None` at the start.
///
/// # Errors
/// `ENOSPC` when not even one bucket fits; `EINVAL` on kernels before 5.6.
pub(super) fn take_batch<K: Plain, V: Plain>(
    map: BorrowedFd<'_>,
    token: &mut Option<u64>,
    keys: &mut [K],
    values: &mut [V],
) -> io::Result<Took> {
    let from = token.unwrap_or(0);
    let mut next = 0u64;
    let mut attr = Batch {
        in_batch: if token.is_some() {
            &from as *const u64 as u64
        } else {
            0
        },
        out_batch: &mut next as *mut u64 as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: keys.len().min(values.len()) as u32,
        map_fd: raw(map),
        ..Batch::default()
    };
    // SAFETY: the kernel writes at most `count` keys and values and a token of four bytes, all of which outlive the call.
    let end = match unsafe { bpf(MAP_LOOKUP_AND_DELETE_BATCH, &mut attr) } {
        Ok(_) => false,
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => true,
        // A bucket did not fit any more, but others did.
        Err(e) if e.raw_os_error() == Some(libc::ENOSPC) && attr.count > 0 => false,
        Err(e) => return Err(e),
    };
    *token = Some(next);
    Ok(Took {
        count: attr.count as usize,
        end,
    })
}

/// What the kernel says about a map.
pub(super) fn map_info(map: BorrowedFd<'_>) -> io::Result<MapInfo> {
    let mut info = MapInfo::default();
    let mut attr = Info {
        fd: raw(map),
        len: size_of::<MapInfo>() as u32,
        info: &mut info as *mut MapInfo as u64,
    };
    // SAFETY: the kernel writes at most `len` bytes.
    unsafe { bpf(OBJ_GET_INFO_BY_FD, &mut attr)? };
    Ok(info)
}

/// Opens a pinned map.
pub(super) fn open_pin(path: &std::path::Path) -> io::Result<OwnedFd> {
    use std::os::unix::ffi::OsStrExt as _;
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = Object {
        path: path.as_ptr() as u64,
        ..Object::default()
    };
    // SAFETY: the path is a NUL-terminated string that outlives the call.
    let fd = unsafe { bpf(OBJ_GET, &mut attr)? };
    // SAFETY: the kernel made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Waits until every running program has ended.
///
/// User space has no direct call for that. The kernel waits for a grace period when an element of a map of maps
/// changes, so that it promises that nobody uses the old inner map; this keeps such a map for nothing else.
#[derive(Debug)]
pub(super) struct Grace {
    outer: OwnedFd,
    inner: OwnedFd,
}

impl Grace {
    pub(super) fn new() -> io::Result<Self> {
        let inner = create(TYPE_ARRAY, None)?;
        let outer = create(TYPE_ARRAY_OF_MAPS, Some(&inner))?;
        Ok(Self { outer, inner })
    }

    pub(super) fn wait(&self) -> io::Result<()> {
        use std::os::fd::AsFd as _;
        update(self.outer.as_fd(), &0u32, &self.inner.as_raw_fd())
    }
}

fn create(map_type: u32, inner: Option<&OwnedFd>) -> io::Result<OwnedFd> {
    let mut attr = Create {
        map_type,
        key_size: 4,
        value_size: 4,
        max_entries: 1,
        flags: 0,
        inner_map_fd: inner.map_or(0, |fd| fd.as_raw_fd() as u32),
    };
    // SAFETY: no pointers inside.
    let fd = unsafe { bpf(MAP_CREATE, &mut attr)? };
    // SAFETY: the kernel made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// The mapped memory of an mmap-able array of [`SlotCounters`].
#[derive(Debug)]
pub(super) struct Mapping {
    at: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: the memory is only accessed through atomics.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `bytes` of a map.
    pub(super) fn new(map: BorrowedFd<'_>, bytes: usize) -> io::Result<Self> {
        // SAFETY: a new mapping, nobody's memory is replaced.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let at =
            NonNull::new(at.cast()).ok_or_else(|| io::Error::from_raw_os_error(libc::EFAULT))?;
        Ok(Self {
            at,
            words: bytes / 8,
        })
    }

    pub(super) fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping lives as long as `self`, is page-aligned, and kernel and user space use atomics on it.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), self.words) }
    }

    pub(super) fn read(&self, word: usize) -> u64 {
        self.words()
            .get(word)
            .map_or(0, |w| w.load(Ordering::Relaxed))
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: our own mapping, of that length; no reference outlives `self`.
        unsafe { libc::munmap(self.at.as_ptr().cast(), self.words * 8) };
    }
}

/// Whether the caller's network namespace has an interface of that name.
pub(super) fn interface_exists(name: &str) -> bool {
    let Ok(name) = CString::new(name) else {
        return false;
    };
    // SAFETY: a NUL-terminated string that outlives the call.
    unsafe { libc::if_nametoindex(name.as_ptr()) != 0 }
}

/// `ethtool_drvinfo`.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    rest: [u8; 160],
}

const _: () = assert!(size_of::<DriverInfo>() == 196);

/// The driver behind an interface of the caller's network namespace; `None` when there is none that says its name.
pub(super) fn driver(interface: &str) -> io::Result<Option<String>> {
    const SIOCETHTOOL: libc::Ioctl = 0x8946;
    const GET_DRIVER_INFO: u32 = 3;
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor of ours.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut info = DriverInfo {
        command: GET_DRIVER_INFO,
        driver: [0; 32],
        rest: [0; 160],
    };
    // SAFETY: all zero is a valid request without name.
    let mut request: libc::ifreq = unsafe { MaybeUninit::zeroed().assume_init() };
    if interface.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&mut info as *mut DriverInfo).cast();
    // SAFETY: the kernel reads the name and writes at most one `ethtool_drvinfo`.
    if unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &mut request) } < 0 {
        let e = io::Error::last_os_error();
        return if e.raw_os_error() == Some(libc::EOPNOTSUPP) {
            Ok(None)
        } else {
            Err(e)
        };
    }
    let name: Vec<u8> = info
        .driver
        .iter()
        .copied()
        .take_while(|b| *b != 0)
        .collect();
    Ok(Some(String::from_utf8_lossy(&name).into_owned()))
}

/// Removes a name from a directory that was opened earlier, so that it works after privileges are gone.
pub(super) fn unlink_at(dir: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let name = CString::new(name)?;
    // SAFETY: a NUL-terminated string that outlives the call.
    if unsafe { libc::unlinkat(dir.as_raw_fd(), name.as_ptr(), 0) } < 0 {
        let e = io::Error::last_os_error();
        if e.raw_os_error() != Some(libc::ENOENT) {
            return Err(e);
        }
    }
    Ok(())
}

/// Removes an empty directory, given its parent.
pub(super) fn rmdir_at(parent: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let name = CString::new(name)?;
    // SAFETY: a NUL-terminated string that outlives the call.
    if unsafe { libc::unlinkat(parent.as_raw_fd(), name.as_ptr(), libc::AT_REMOVEDIR) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
