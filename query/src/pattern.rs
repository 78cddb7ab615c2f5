//! Choices of server names, tried letter by letter as `LIKE` does.

use crate::request::{Matching, Name};

/// A choice of names, ready to be tried.
#[derive(Debug)]
pub struct Pattern {
    parts: Vec<Part>,
    /// Also anything that ends in a point and the text.
    below: bool,
    ignore_case: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Part {
    Letter(char),
    AnyLetter,
    AnyText,
}

impl Pattern {
    /// Prepares a choice.
    pub fn new(name: &Name) -> Self {
        let fold = |c: char| if name.ignore_case { folded(c) } else { c };
        let literal = |text: &str| text.chars().map(|c| Part::Letter(fold(c))).collect();
        let parts = match &name.matching {
            Matching::Domain(text) | Matching::Subdomains(text) => literal(text),
            Matching::Pattern(text) => {
                let mut parts = Vec::new();
                let mut rest = text.chars().peekable();
                while let Some(c) = rest.next() {
                    parts.push(match (c, rest.peek()) {
                        ('%', _) => Part::AnyText,
                        ('_', _) => Part::AnyLetter,
                        ('\\', Some(next @ ('%' | '_' | '\\'))) => {
                            let part = Part::Letter(*next);
                            rest.next();
                            part
                        }
                        (c, _) => Part::Letter(fold(c)),
                    });
                }
                parts
            }
        };
        Self {
            parts,
            below: matches!(name.matching, Matching::Subdomains(_)),
            ignore_case: name.ignore_case,
        }
    }

    /// Whether a name is one of them.
    pub fn fits(&self, name: &str) -> bool {
        let letters: Vec<char> = if self.ignore_case {
            name.chars().map(folded).collect()
        } else {
            name.chars().collect()
        };
        if fits(&self.parts, &letters) {
            return true;
        }
        let from = letters.len().checked_sub(self.parts.len());
        self.below
            && from.is_some_and(|from| {
                from > 0 && letters[from - 1] == '.' && fits(&self.parts, &letters[from..])
            })
    }
}

fn folded(c: char) -> char {
    let mut lower = c.to_lowercase();
    match (lower.next(), lower.next()) {
        (Some(one), None) => one,
        _ => c,
    }
}

fn fits(parts: &[Part], letters: &[char]) -> bool {
    let (mut p, mut n) = (0, 0);
    // Where to try again with one more letter for the newest `%`.
    let mut again: Option<(usize, usize)> = None;
    while n < letters.len() {
        match parts.get(p) {
            Some(Part::AnyText) => {
                again = Some((p + 1, n));
                p += 1;
            }
            Some(Part::AnyLetter) => (p, n) = (p + 1, n + 1),
            Some(Part::Letter(c)) if *c == letters[n] => (p, n) = (p + 1, n + 1),
            Some(Part::Letter(_)) | None => match again {
                Some((after, from)) => {
                    (p, n) = (after, from + 1);
                    again = Some((after, from + 1));
                }
                None => return false,
            },
        }
    }
    parts[p..].iter().all(|part| *part == Part::AnyText)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str, ignore_case: bool) -> Pattern {
        Pattern::new(&Name {
            matching: Matching::Pattern(text.to_owned()),
            ignore_case,
        })
    }

    #[test]
    fn patterns_fit_as_like_does() {
        for (text, name, want) in [
            ("%video%", "a.video.b", true),
            ("%video%", "a.VIDEO.b", false),
            ("iot_hub", "iotxhub", true),
            (r"iot\_hub", "iotxhub", false),
            (r"iot\_hub", "iot_hub", true),
            (r"100\%", "100%", true),
            (r"100\%", "1000", false),
            ("%a%b", "xaybxb", true),
            ("%", "", true),
            ("", "", true),
            ("", "x", false),
            ("_", "é", true),
            (r"a\b", r"a\b", true),
            (r"a\\b", r"a\b", true),
            ("a%%b", "ab", true),
        ] {
            assert_eq!(pattern(text, false).fits(name), want, "{text} {name}");
        }
        assert!(pattern("%Video%", true).fits("a.vIDEO.b"));
    }

    #[test]
    fn names_below_a_name_end_in_it() {
        let below = Pattern::new(&Name {
            matching: Matching::Subdomains("b.example".to_owned()),
            ignore_case: true,
        });
        for (name, want) in [
            ("b.example", true),
            ("a.B.example", true),
            ("ab.example", false),
            ("example", false),
            ("b.example.org", false),
        ] {
            assert_eq!(below.fits(name), want, "{name}");
        }
    }
}
