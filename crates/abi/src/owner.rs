/// A process as the kernel knew it when the socket was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Owner {
    /// Identity of the socket, never used again while the machine runs; 0 when there is none.
    pub cookie: u64,
    /// Process id (the kernel's thread group id), in the initial pid namespace.
    pub pid: u32,
    /// Keeps the size a multiple of the alignment.
    pub pad: u32,
    /// Name of the thread, ended by a zero byte unless it fills the field.
    pub name: [u8; 16],
}

impl Owner {
    /// The name up to its zero byte.
    pub fn name(&self) -> &[u8] {
        let end = self.name.iter().position(|b| *b == 0);
        &self.name[..end.unwrap_or(self.name.len())]
    }
}

/// A protocol and a local port, for sockets that others connect to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct LocalPort {
    /// IP protocol number.
    pub protocol: u16,
    /// Port number.
    pub port: u16,
}

/// Names of the maps that tell which process owns a flow.
pub mod owner_map {
    /// `LRU_HASH` of [`crate::FlowKey`], local address first, VLAN 0, to [`super::Owner`].
    pub const FLOW_OWNERS: &str = "FLOW_OWNERS";
    /// `LRU_HASH` of socket cookies to [`super::Owner`].
    pub const SOCKET_OWNERS: &str = "SOCKET_OWNERS";
    /// `LRU_HASH` of [`super::LocalPort`] to [`super::Owner`].
    pub const PORT_OWNERS: &str = "PORT_OWNERS";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_ends_at_its_zero_or_at_the_end() {
        let mut o = Owner::default();
        assert_eq!(o.name(), b"");
        o.name[..4].copy_from_slice(b"curl");
        assert_eq!(o.name(), b"curl");
        o.name = [b'x'; 16];
        assert_eq!(o.name().len(), 16);
    }

    #[test]
    fn there_is_no_padding() {
        assert_eq!((size_of::<Owner>(), size_of::<LocalPort>()), (32, 4));
    }
}
