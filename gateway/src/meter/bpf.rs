//! Classic BPF: the programs that capture filters are compiled to.
//!
//! The machine of McCanne and Jacobson, "The BSD Packet Filter", USENIX 1993: an accumulator, an index register and 16 words
//! of memory; no program can loop without end or read outside its frame.

/// One instruction as the kernel's `struct sock_filter` and libpcap's `struct bpf_insn`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    /// What to do.
    pub code: u16,
    /// Instructions to skip when a condition holds.
    pub jump_true: u8,
    /// Instructions to skip when it does not.
    pub jump_false: u8,
    /// Operand.
    pub k: u32,
}

/// Instructions a run may take: filters over header chains (`protochain`) jump back.
const MAX_STEPS: usize = 100_000;

const MEMORY: usize = 16;

/// A filter program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program(Vec<Instruction>);

impl Program {
    /// Takes the instructions as they are: a program that does something undefined accepts nothing from there on.
    pub fn new(instructions: Vec<Instruction>) -> Self {
        Self(instructions)
    }

    /// Whether it accepts a frame that had `wire_len` bytes on the wire.
    pub fn accepts(&self, frame: &[u8], wire_len: usize) -> bool {
        self.run(frame, u32::try_from(wire_len).unwrap_or(u32::MAX))
            .is_some_and(|bytes| bytes > 0)
    }

    /// What the program returns: bytes to keep. `None` where it reads outside the frame, divides by zero, leaves the program or
    /// takes too long, which all mean 0.
    fn run(&self, frame: &[u8], wire_len: u32) -> Option<u32> {
        let (mut a, mut x, mut memory) = (0u32, 0u32, [0u32; MEMORY]);
        let mut next = 0usize;
        for _ in 0..MAX_STEPS {
            let i = self.0.get(next)?;
            next += 1;
            let source = if i.code & 0x08 == 0 { i.k } else { x };
            match i.code & 0x07 {
                0x00 => {
                    a = match i.code & 0xe0 {
                        0x00 => i.k,
                        0x20 => load(frame, i.k, i.code)?,
                        0x40 => load(frame, x.checked_add(i.k)?, i.code)?,
                        0x60 => *memory.get(i.k as usize)?,
                        0x80 => wire_len,
                        _ => return None,
                    }
                }
                0x01 => {
                    x = match i.code & 0xe0 {
                        0x00 => i.k,
                        0x60 => *memory.get(i.k as usize)?,
                        0x80 => wire_len,
                        // Four times the lower half of a byte: the length of an IPv4 header.
                        0xa0 => (u32::from(*frame.get(i.k as usize)?) & 0x0f) * 4,
                        _ => return None,
                    }
                }
                0x02 => *memory.get_mut(i.k as usize)? = a,
                0x03 => *memory.get_mut(i.k as usize)? = x,
                0x04 => a = arithmetic(i.code & 0xf0, a, source)?,
                0x05 if i.code & 0xf0 == 0x00 => {
                    // A signed distance: jumps back are negative.
                    next = next.checked_add_signed(i.k as i32 as isize)?;
                }
                0x05 => {
                    let holds = match i.code & 0xf0 {
                        0x10 => a == source,
                        0x20 => a > source,
                        0x30 => a >= source,
                        0x40 => a & source != 0,
                        _ => return None,
                    };
                    next += usize::from(if holds { i.jump_true } else { i.jump_false });
                }
                0x06 => {
                    return Some(match i.code & 0x18 {
                        0x00 => i.k,
                        0x08 => x,
                        _ => a,
                    });
                }
                _ if i.code & 0x80 == 0 => x = a,
                _ => a = x,
            }
        }
        None
    }
}

fn load(frame: &[u8], at: u32, code: u16) -> Option<u32> {
    let bytes = frame.get(at as usize..)?;
    match code & 0x18 {
        0x00 => bytes.first_chunk().map(|b| u32::from_be_bytes(*b)),
        0x08 => bytes
            .first_chunk()
            .map(|b| u32::from(u16::from_be_bytes(*b))),
        0x10 => bytes.first().map(|b| u32::from(*b)),
        _ => None,
    }
}

fn arithmetic(operation: u16, a: u32, b: u32) -> Option<u32> {
    Some(match operation {
        0x00 => a.wrapping_add(b),
        0x10 => a.wrapping_sub(b),
        0x20 => a.wrapping_mul(b),
        0x30 => a.checked_div(b)?,
        0x40 => a | b,
        0x50 => a & b,
        0x60 => a.checked_shl(b).unwrap_or(0),
        0x70 => a.checked_shr(b).unwrap_or(0),
        0x80 => a.wrapping_neg(),
        0x90 => a.checked_rem(b)?,
        0xa0 => a ^ b,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(code: &[(u16, u8, u8, u32)]) -> Program {
        Program::new(
            code.iter()
                .map(|&(code, jump_true, jump_false, k)| Instruction {
                    code,
                    jump_true,
                    jump_false,
                    k,
                })
                .collect(),
        )
    }

    /// `udp port 53` over Ethernet and IPv4, as `tcpdump -dd ip and udp port 53` prints it.
    fn dns() -> Program {
        program(&[
            (0x28, 0, 0, 12),
            (0x15, 0, 10, 0x800),
            (0x30, 0, 0, 23),
            (0x15, 0, 8, 17),
            (0x28, 0, 0, 20),
            (0x45, 6, 0, 0x1fff),
            (0xb1, 0, 0, 14),
            (0x48, 0, 0, 14),
            (0x15, 2, 0, 53),
            (0x48, 0, 0, 16),
            (0x15, 0, 1, 53),
            (0x06, 0, 0, 262_144),
            (0x06, 0, 0, 0),
        ])
    }

    fn frame(port: u8) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([
            8, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        ]);
        frame.extend([0x13, 0x88, 0, port, 0, 8, 0, 0]);
        frame
    }

    #[test]
    fn a_port_is_found_behind_the_header() {
        assert!(dns().accepts(&frame(53), 42));
        assert!(!dns().accepts(&frame(54), 42));
        let mut fragment = frame(53);
        fragment[21] = 1;
        assert!(!dns().accepts(&fragment, 42));
        assert!((0..42).all(|cut| dns().accepts(&frame(53)[..cut], 42) == (cut >= 38)));
    }

    #[test]
    fn arithmetic_memory_and_length_are_those_of_the_paper() {
        // ((len / 7) ^ 3) << 2, by memory and the index register.
        let code = [
            (0x80, 0, 0, 0),
            (0x34, 0, 0, 7),
            (0x02, 0, 0, 15),
            (0x61, 0, 0, 15),
            (0x87, 0, 0, 0),
            (0xa4, 0, 0, 3),
            (0x64, 0, 0, 2),
            (0x16, 0, 0, 0),
        ];
        assert_eq!(program(&code).run(&[], 100), Some((14 ^ 3) << 2));
        let shift = [(0x00, 0, 0, 1), (0x64, 0, 0, 32), (0x16, 0, 0, 0)];
        assert_eq!(program(&shift).run(&[], 0), Some(0));
    }

    #[test]
    fn wrong_programs_accept_nothing_and_end() {
        for code in [
            &[(0x05, 0, 0, u32::MAX)][..],
            &[(0x05, 0, 0, 7)],
            &[(0x00, 0, 0, 1)],
            &[(0x34, 0, 0, 0), (0x06, 0, 0, 1)],
            &[(0x02, 0, 0, 16), (0x06, 0, 0, 1)],
            &[(0x01, 0, 0, u32::MAX), (0x40, 0, 0, 5), (0x06, 0, 0, 1)],
            &[],
        ] {
            assert!(!program(code).accepts(&[0; 64], 64), "{code:?}");
        }
    }
}
