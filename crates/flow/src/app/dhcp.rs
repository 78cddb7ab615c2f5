//! DHCP for IPv4 (RFC 2131, RFC 2132): what a host calls itself and asks for.

use super::bytes::Reader;

const MESSAGE_TYPE: u8 = 53;
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
    /// The bytes of the options.
    encoded: &'a [u8],
}

/// Options of a message, padding left out; one that is cut keeps what is there.
#[derive(Clone, Debug)]
pub struct Options<'a>(Reader<'a>);

impl<'a> Iterator for Options<'a> {
    /// Type and value.
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.0.u8()? {
                0 => {}
                255 => return None,
                code => {
                    let length = self.0.u8()?;
                    return Some((code, self.0.take_at_most(length as usize)));
                }
            }
        }
    }
}

impl<'a> Dhcp<'a> {
    /// Reads a message; `None` when it is none.
    pub fn parse(message: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(message);
        let operation = reader.u8()?;
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
            encoded: reader.rest(),
            ..Self::default()
        };
        for (code, value) in Options(reader) {
            dhcp.option(code, value);
        }
        Some(dhcp)
    }

    /// The message as nDPI reads it: options before the message type, and those from the first empty one on, do not count.
    #[must_use]
    pub fn after_message_type(&self) -> Self {
        let mut seen = Self {
            operation: self.operation,
            client_hardware: self.client_hardware,
            encoded: self.encoded,
            ..Self::default()
        };
        let options = Options(Reader::new(self.encoded));
        for (code, value) in options
            .skip_while(|(code, _)| *code != MESSAGE_TYPE)
            .take_while(|(_, value)| !value.is_empty())
        {
            seen.option(code, value);
        }
        seen
    }

    fn option(&mut self, code: u8, value: &'a [u8]) {
        self.options.push(code);
        match code {
            12 => self.host_name = Some(value),
            50 => self.requested_address = value.try_into().ok(),
            MESSAGE_TYPE => self.message_type = value.first().copied(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(options: &[u8]) -> Vec<u8> {
        let mut out = vec![1, 1, 6, 0];
        out.resize(28, 0);
        out.extend([2, 0, 0, 0, 0, 1]);
        out.resize(236, 0);
        out.extend(MAGIC);
        out.extend_from_slice(options);
        out
    }

    #[test]
    fn reads_what_a_host_says() {
        let options = [
            &[53, 1, 1, 0, 12, 4][..],
            b"plug",
            &[55, 3, 1, 3, 6, 60, 3],
            b"abc",
            &[50, 4, 10, 0, 0, 9, 57, 2, 5, 0xdc, 255, 12, 1, b'x'],
        ]
        .concat();
        let bytes = message(&options);
        let dhcp = Dhcp::parse(&bytes).expect("a message");
        assert_eq!((dhcp.operation, dhcp.message_type), (1, Some(1)));
        assert_eq!(dhcp.host_name, Some(&b"plug"[..]));
        assert_eq!(dhcp.fingerprint().as_deref(), Some("1,3,6"));
        assert_eq!(dhcp.vendor_class, Some(&b"abc"[..]));
        assert_eq!(
            (dhcp.requested_address, dhcp.max_size),
            (Some([10, 0, 0, 9]), Some(1500))
        );
        assert_eq!(dhcp.client_hardware, [2, 0, 0, 0, 0, 1]);
        assert_eq!(dhcp.options, [53, 12, 55, 60, 50, 57]);
    }

    #[test]
    fn tells_what_comes_after_the_message_type() {
        let options = [55, 1, 1, 53, 1, 3, 12, 1, b'a', 80, 0, 55, 1, 6, 255];
        let bytes = message(&options);
        let dhcp = Dhcp::parse(&bytes).expect("a message");
        assert_eq!(dhcp.fingerprint().as_deref(), Some("6"));
        let seen = dhcp.after_message_type();
        assert_eq!(
            (seen.fingerprint(), seen.host_name),
            (None, Some(&b"a"[..]))
        );
    }

    #[test]
    fn keeps_what_is_there_of_a_cut_option() {
        let bytes = message(&[53, 1, 1, 12, 9, b'a', b'b']);
        assert_eq!(
            Dhcp::parse(&bytes).and_then(|d| d.host_name),
            Some(&b"ab"[..])
        );
        assert_eq!(Dhcp::parse(&bytes[..239]), None);
    }

    proptest! {
        #[test]
        fn takes_any_options(options in prop::collection::vec(any::<u8>(), 0..300)) {
            let bytes = message(&options);
            let dhcp = Dhcp::parse(&bytes).expect("a message");
            dhcp.fingerprint();
            let _ = dhcp.after_message_type();
        }

        #[test]
        fn takes_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            Dhcp::parse(&bytes);
        }
    }
}
