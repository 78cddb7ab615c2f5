//! What addresses are called: names that hosts were told by DNS.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use chaff_abi::Nanos;

use super::dns::{Data, Message, kind};
use super::text;

/// Names that one message may add.
const MAX_NAMES: usize = 16;

/// Remembers which name an address was the answer for.
///
/// Holds at most as many addresses as it was made for, about 250 bytes each; the oldest make room. An answer is forgotten when
/// its time to live is over.
#[derive(Clone, Debug)]
pub struct Answers {
    names: BTreeMap<IpAddr, Entry>,
    /// Addresses in the order in which they were told, with the number of the telling.
    order: VecDeque<(IpAddr, u64)>,
    capacity: usize,
    told: u64,
}

#[derive(Clone, Debug)]
struct Entry {
    name: Box<str>,
    until: Nanos,
    told: u64,
}

impl Answers {
    /// A memory of `capacity` addresses.
    pub fn new(capacity: usize) -> Self {
        Self {
            names: BTreeMap::new(),
            order: VecDeque::new(),
            capacity,
            told: 0,
        }
    }

    /// Takes the payload of a DNS datagram; what is no answer changes nothing.
    pub fn observe(&mut self, now: Nanos, payload: &[u8]) {
        let Some(message) = Message::parse(payload) else {
            return;
        };
        // The name that was asked for is what people know, not the one that it stands for.
        let Some((name, _)) = message.questions.first() else {
            return;
        };
        if !message.header.is_response() || name.is_empty() {
            return;
        }
        let name: Box<str> = text::domain(name.as_bytes()).into();
        let addresses = message
            .records
            .iter()
            .filter(|r| matches!(r.kind, kind::A | kind::AAAA));
        for record in addresses.take(MAX_NAMES) {
            if let Data::Address(address) = record.data {
                let until = Nanos(now.0.saturating_add(u64::from(record.ttl) * 1_000_000_000));
                self.insert(address.to_canonical(), &name, until);
            }
        }
    }

    fn insert(&mut self, address: IpAddr, name: &str, until: Nanos) {
        if self.capacity == 0 {
            return;
        }
        self.told += 1;
        let entry = Entry {
            name: name.into(),
            until,
            told: self.told,
        };
        self.names.insert(address, entry);
        self.order.push_back((address, self.told));
        while self.names.len() > self.capacity || self.order.len() > 2 * self.capacity {
            let Some((oldest, told)) = self.order.pop_front() else {
                return;
            };
            // Told again since.
            if self.names.get(&oldest).is_some_and(|e| e.told == told) {
                self.names.remove(&oldest);
            }
        }
    }

    /// The name that `address` was the answer for, while that holds.
    pub fn name(&self, now: Nanos, address: IpAddr) -> Option<&str> {
        let entry = self.names.get(&address.to_canonical())?;
        (now <= entry.until).then_some(&*entry.name)
    }

    /// Addresses that are remembered, those included whose time is over.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::super::dns::tests::{answer, question, response};
    use super::*;
    use proptest::prelude::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn remembers_until_the_time_is_over() {
        let mut answers = Answers::new(4);
        let message = response(
            &[question("WWW.example.org")],
            &[answer(60, [192, 0, 2, 1])],
        );
        answers.observe(Nanos::from_secs(10), &message);
        assert_eq!(
            answers.name(Nanos::from_secs(70), ip(1)),
            Some("www.example.org")
        );
        assert_eq!(answers.name(Nanos::from_secs(71), ip(1)), None);
        assert_eq!(answers.name(Nanos::from_secs(20), ip(2)), None);
    }

    #[test]
    fn forgets_the_oldest() {
        let mut answers = Answers::new(2);
        let tell = |answers: &mut Answers, last| {
            let message = response(&[question("a.example")], &[answer(60, [192, 0, 2, last])]);
            answers.observe(Nanos(0), &message);
        };
        for last in [1, 2, 1, 3] {
            tell(&mut answers, last);
        }
        let known = [1, 2, 3].map(|last| answers.name(Nanos(0), ip(last)).is_some());
        assert_eq!(known, [true, false, true]);
        for _ in 0..100 {
            tell(&mut answers, 3);
        }
        assert!(answers.order.len() <= 4 && answers.len() <= 2);
    }

    proptest! {
        #[test]
        fn stays_within_its_bound(messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..50)) {
            let mut answers = Answers::new(3);
            for (i, message) in messages.iter().enumerate() {
                answers.observe(Nanos(i as u64), message);
                let told = response(&[question("a.b")], &[answer(1, [10, 0, 0, i as u8])]);
                answers.observe(Nanos(i as u64), &told);
                prop_assert!(answers.len() <= 3);
            }
        }
    }
}
