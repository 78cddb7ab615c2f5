//! Capture filters in the language of tcpdump.

use chaff_flow::Link;

use super::bpf::Program;
use super::libpcap::{FilterError, Libpcap};

/// A filter, compiled for each link type that comes up.
pub struct Filter {
    libpcap: Libpcap,
    text: String,
    compiled: Vec<(Link, Program)>,
}

impl Filter {
    /// A filter that is not compiled yet.
    ///
    /// # Errors
    /// [`FilterError::Missing`].
    pub fn new(text: &str) -> Result<Self, FilterError> {
        Ok(Self {
            libpcap: Libpcap::load()?,
            text: text.into(),
            compiled: Vec::new(),
        })
    }

    /// Compiles it for a link type, so that an error comes early.
    ///
    /// # Errors
    /// [`FilterError::Wrong`].
    pub fn prepare(&mut self, link: Link) -> Result<&Program, FilterError> {
        let place = match self.compiled.iter().position(|(l, _)| *l == link) {
            Some(place) => place,
            None => {
                let program = self.libpcap.compile(&self.text, link)?;
                self.compiled.push((link, program));
                self.compiled.len() - 1
            }
        };
        Ok(&self.compiled[place].1)
    }

    /// Whether it accepts a frame.
    ///
    /// # Errors
    /// [`FilterError::Wrong`], with the first frame of a link type.
    pub fn accepts(
        &mut self,
        link: Link,
        frame: &[u8],
        wire_len: usize,
    ) -> Result<bool, FilterError> {
        Ok(self.prepare(link)?.accepts(frame, wire_len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(text: &str) -> Option<Filter> {
        match Filter::new(text) {
            Ok(filter) => Some(filter),
            Err(e) => {
                println!("skipped: {e}");
                None
            }
        }
    }

    #[test]
    fn filters_are_compiled_for_the_link_of_the_frame() {
        let Some(mut filter) = filter("udp dst port 53") else {
            return;
        };
        let mut frame = vec![
            0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        ];
        frame.extend([0x13, 0x88, 0, 53, 0, 8, 0, 0]);
        assert!(
            filter
                .accepts(Link::RawIp, &frame, frame.len())
                .expect("it compiles")
        );
        assert!(
            !filter
                .accepts(Link::Ethernet, &frame, frame.len())
                .expect("it compiles")
        );
        let mut ethernet = vec![0; 12];
        ethernet.extend([8, 0]);
        ethernet.extend(frame);
        assert!(
            filter
                .accepts(Link::Ethernet, &ethernet, 42)
                .expect("it compiles")
        );
    }

    #[test]
    fn wrong_filters_are_told_in_the_words_of_libpcap() {
        let Some(mut filter) = filter("udp prt 53") else {
            return;
        };
        let error = filter
            .prepare(Link::Ethernet)
            .expect_err("no such filter")
            .to_string();
        assert!(error.starts_with("filter `udp prt 53`: "), "{error}");
        assert!(error.contains("syntax error"), "{error}");
    }
}
