//! DHCP for IPv4 (RFC 2131, RFC 2132): what a host calls itself and asks for.

use super::bytes::Reader;

const MAGIC: [u8; 4] = [99, 130, 83, 99];
/// Longest option-55 list that is written out, options.
pub const MAX_REQUESTS: usize = 128;

/// What a message says about its sender.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dhcp<'a> {
    /// 1 from clients, 2 from servers.
    pub operation: u8,
    /// Option 53: 1 discover, 2 offer, 3 request, 4 decline, 5 ack, 6 nak, 7 release, 8 inform.
    pub message_type: Option<u8>,
    /// Option 12, host name.
    pub host_name: Option<&'a [u8]>,
    /// Option 55, options the client asks for, in its order.
    pub requests: Option<&'a [u8]>,
    /// Option 60, vendor class.
    pub vendor_class: Option<&'a [u8]>,
    /// Option 77, user class.
    pub user_class: Option<&'a [u8]>,
    /// Option 50, requested address.
    pub requested_address: Option<[u8; 4]>,
    /// Option 57, longest message that the client takes.
    pub max_size: Option<u16>,
    /// Hardware address of the client, as many of its six bytes as it says.
    pub client_hardware: [u8; 6],
    /// Types of all options in their order.
    pub options: Vec<u8>,
}

impl<'a> Dhcp<'a> {
    /// Reads a message; `None` when it is none. Options behind a cut or a broken one are left out.
    pub fn parse(message: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(message);
        let operation = reader.u8()?;
        if !matches!(operation, 1 | 2) {
            return None;
        }
        reader.take(27)?;
        let mut client_hardware = [0; 6];
        client_hardware.copy_from_slice(reader.take(6)?);
        reader.take(202)?;
        if reader.take(4)? != MAGIC {
            return None;
        }
        let mut dhcp = Self {
            operation,
            client_hardware,
            ..Self::default()
        };
        while let Some(code) = reader.u8() {
            match code {
                0 => continue,
                255 => break,
                _ => {}
            }
            let Some(value) = reader.vector8() else { break };
            dhcp.option(code, value);
        }
        Some(dhcp)
    }

    fn option(&mut self, code: u8, value: &'a [u8]) {
        self.options.push(code);
        match code {
            12 => self.host_name = Some(value),
            50 => self.requested_address = value.try_into().ok(),
            53 => self.message_type = value.first().copied(),
            55 => self.requests = Some(value),
            57 => self.max_size = value.try_into().ok().map(u16::from_be_bytes),
            60 => self.vendor_class = Some(value),
            77 => self.user_class = Some(value),
            _ => {}
        }
    }

    /// Option 55 as decimal numbers with commas, at most [`MAX_REQUESTS`]; the usual fingerprint of DHCP clients.
    pub fn fingerprint(&self) -> Option<String> {
        let requests = self.requests?;
        let numbers: Vec<String> = requests
            .iter()
            .take(MAX_REQUESTS)
            .map(u8::to_string)
            .collect();
        Some(numbers.join(","))
    }
}
