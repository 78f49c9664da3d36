//! Regular expressions as `~` has them: POSIX extended ones with the common escapes, matched by Thompson's construction: time is at most
//! pattern times text, whatever the pattern. Groups capture nothing.
//!
//! What there is: literals, `.`, `[...]` with ranges, negation and `[:class:]`, `( )`, `(?: )`, `|`, `* + ? {m,n}` (also non-greedy,
//! which for "does it match" is the same), `^ $ \A \Z \m \M \y \d \w \s \D \W \S` and escaped characters. Refused (0A000): back references
//! and lookahead.

use super::pattern::{simple_lower, simple_upper};
use super::{SqlError, fail};

/// Most instructions of a compiled pattern: counted repetition is written out.
const PROGRAM_MAX: usize = 20_000;

#[derive(Clone, Debug, PartialEq)]
enum Set {
    Any,
    One(char),
    Class(Vec<(char, char)>, bool),
}

#[derive(Clone, Debug)]
enum Tree {
    Empty,
    Set(Set),
    At(Place),
    Sequence(Vec<Tree>),
    Either(Vec<Tree>),
    Repeat(Box<Tree>, u32, Option<u32>),
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Place {
    Start,
    End,
    WordStart,
    WordEnd,
    WordEdge,
}

#[derive(Clone, Debug)]
enum Step {
    Take(Set),
    At(Place),
    Fork(usize, usize),
    Jump(usize),
    Match,
}

/// A compiled pattern.
#[derive(Clone, Debug)]
pub struct Regex {
    steps: Vec<Step>,
    fold: bool,
    captures: bool,
}

struct Parser<'a> {
    chars: std::iter::Peekable<std::str::Chars<'a>>,
    depth: u32,
    captures: bool,
}

fn invalid<T>(what: &str) -> Result<T, SqlError> {
    fail("2201B", format!("invalid regular expression: {what}"))
}

impl Regex {
    /// Compiles a pattern; `fold` ignores case.
    ///
    /// # Errors
    /// 2201B for what is no pattern, 0A000 for what is not supported.
    pub fn new(pattern: &str, fold: bool) -> Result<Regex, SqlError> {
        let (pattern, fold) = match pattern.strip_prefix("(?i)") {
            Some(rest) => (rest, true),
            None => (pattern.strip_prefix("***:").unwrap_or(pattern), fold),
        };
        let mut parser = Parser { chars: pattern.chars().peekable(), depth: 0, captures: false };
        let tree = parser.either()?;
        if parser.chars.next().is_some() {
            return invalid("parentheses () not balanced");
        }
        let mut regex = Regex { steps: Vec::new(), fold, captures: parser.captures };
        regex.compile(&tree)?;
        regex.steps.push(Step::Match);
        Ok(regex)
    }

    /// Whether the pattern matches anywhere in `text`.
    pub fn is_match(&self, text: &str) -> bool {
        self.run(text, 0, true).is_some()
    }

    /// Whether it has groups that capture, which [`Regex::find`] knows nothing of.
    pub fn captures(&self) -> bool {
        self.captures
    }

    /// The first and longest match: its bytes.
    pub fn find(&self, text: &str) -> Option<(usize, usize)> {
        let starts = text.char_indices().map(|(at, _)| at).chain([text.len()]);
        starts.into_iter().find_map(|start| self.run(text, start, false).map(|end| (start, end)))
    }

    fn push(&mut self, step: Step) -> Result<usize, SqlError> {
        if self.steps.len() >= PROGRAM_MAX {
            return invalid("regular expression is too complex");
        }
        self.steps.push(step);
        Ok(self.steps.len() - 1)
    }

    fn compile(&mut self, tree: &Tree) -> Result<(), SqlError> {
        match tree {
            Tree::Empty => {}
            Tree::Set(set) => {
                self.push(Step::Take(set.clone()))?;
            }
            Tree::At(place) => {
                self.push(Step::At(*place))?;
            }
            Tree::Sequence(parts) => {
                for part in parts {
                    self.compile(part)?;
                }
            }
            Tree::Either(parts) => {
                let mut jumps = Vec::new();
                for (index, part) in parts.iter().enumerate() {
                    if index + 1 == parts.len() {
                        self.compile(part)?;
                        continue;
                    }
                    let fork = self.push(Step::Fork(0, 0))?;
                    self.compile(part)?;
                    jumps.push(self.push(Step::Jump(0))?);
                    self.steps[fork] = Step::Fork(fork + 1, self.steps.len());
                }
                let end = self.steps.len();
                for jump in jumps {
                    self.steps[jump] = Step::Jump(end);
                }
            }
            Tree::Repeat(part, least, most) => {
                for _ in 0..*least {
                    self.compile(part)?;
                }
                match most {
                    None => {
                        let fork = self.push(Step::Fork(0, 0))?;
                        self.compile(part)?;
                        self.push(Step::Jump(fork))?;
                        self.steps[fork] = Step::Fork(fork + 1, self.steps.len());
                    }
                    Some(most) => {
                        let mut forks = Vec::new();
                        for _ in *least..*most {
                            forks.push(self.push(Step::Fork(0, 0))?);
                            self.compile(part)?;
                        }
                        for fork in forks {
                            self.steps[fork] = Step::Fork(fork + 1, self.steps.len());
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Follows forks, jumps and places from a step; true where a match was reached.
    fn follow(&self, from: usize, edge: (Option<char>, Option<char>), seen: &mut [bool], out: &mut Vec<usize>) -> bool {
        let mut stack = vec![from];
        let mut matched = false;
        while let Some(at) = stack.pop() {
            if std::mem::replace(&mut seen[at], true) {
                continue;
            }
            match &self.steps[at] {
                Step::Take(_) => out.push(at),
                Step::Match => matched = true,
                Step::Jump(to) => stack.push(*to),
                Step::Fork(a, b) => stack.extend([*b, *a]),
                Step::At(place) if place.holds(edge) => stack.push(at + 1),
                Step::At(_) => {}
            }
        }
        matched
    }

    /// The end of the longest match from `start` (of any match, from anywhere behind `start`, where `anywhere`).
    fn run(&self, text: &str, start: usize, anywhere: bool) -> Option<usize> {
        let mut previous = text[..start].chars().next_back();
        let mut chars = text[start..].chars();
        let mut at = start;
        let mut found = None;
        let mut waiting: Vec<usize> = vec![0];
        loop {
            let rest = chars.clone().next();
            let mut seen = vec![false; self.steps.len()];
            let mut live = Vec::new();
            for step in waiting.drain(..) {
                if self.follow(step, (previous, rest), &mut seen, &mut live) {
                    found = Some(at);
                }
            }
            if found.is_some() && (anywhere || live.is_empty()) {
                return found;
            }
            let Some(c) = chars.next() else { return found };
            for step in live {
                if let Step::Take(set) = &self.steps[step]
                    && set.holds(c, self.fold)
                {
                    waiting.push(step + 1);
                }
            }
            if anywhere {
                waiting.push(0);
            } else if waiting.is_empty() {
                return found;
            }
            previous = Some(c);
            at += c.len_utf8();
        }
    }
}

fn word(c: Option<char>) -> bool {
    c.is_some_and(|c| c.is_alphanumeric() || c == '_')
}

impl Place {
    fn holds(self, (before, after): (Option<char>, Option<char>)) -> bool {
        match self {
            Place::Start => before.is_none(),
            Place::End => after.is_none(),
            Place::WordStart => !word(before) && word(after),
            Place::WordEnd => word(before) && !word(after),
            Place::WordEdge => word(before) != word(after),
        }
    }
}

impl Set {
    fn holds(&self, c: char, fold: bool) -> bool {
        let plain = |c: char| match self {
            Set::Any => true,
            Set::One(one) => *one == c,
            Set::Class(ranges, _) => ranges.iter().any(|(from, to)| (*from..=*to).contains(&c)),
        };
        let inside = plain(c) || (fold && (plain(simple_lower(c)) || plain(simple_upper(c))));
        inside != matches!(self, Set::Class(_, true))
    }
}

impl Parser<'_> {
    fn either(&mut self) -> Result<Tree, SqlError> {
        self.depth += 1;
        if self.depth > 200 {
            return invalid("regular expression is too complex");
        }
        let mut parts = vec![self.sequence()?];
        while self.chars.next_if_eq(&'|').is_some() {
            parts.push(self.sequence()?);
        }
        self.depth -= 1;
        Ok(if parts.len() == 1 { parts.remove(0) } else { Tree::Either(parts) })
    }

    fn sequence(&mut self) -> Result<Tree, SqlError> {
        let mut parts = Vec::new();
        while let Some(&c) = self.chars.peek() {
            if c == '|' || (c == ')' && self.depth > 1) {
                break;
            }
            let part = self.piece()?;
            parts.push(self.repeated(part)?);
        }
        Ok(if parts.is_empty() { Tree::Empty } else { Tree::Sequence(parts) })
    }

    fn repeated(&mut self, mut part: Tree) -> Result<Tree, SqlError> {
        loop {
            let (least, most) = match self.chars.peek() {
                Some('*') => (0, None),
                Some('+') => (1, None),
                Some('?') => (0, Some(1)),
                Some('{') => {
                    self.chars.next();
                    let bounds = self.bounds()?;
                    self.chars.next_if_eq(&'?');
                    part = Tree::Repeat(Box::new(part), bounds.0, bounds.1);
                    continue;
                }
                _ => return Ok(part),
            };
            if matches!(part, Tree::Repeat(..)) {
                return invalid("quantifier operand invalid");
            }
            self.chars.next();
            // Non-greedy: which match is found differs, whether there is one doesn't.
            self.chars.next_if_eq(&'?');
            part = Tree::Repeat(Box::new(part), least, most);
        }
    }

    fn bounds(&mut self) -> Result<(u32, Option<u32>), SqlError> {
        let number = |parser: &mut Self| {
            let mut digits = String::new();
            while let Some(c) = parser.chars.next_if(char::is_ascii_digit) {
                digits.push(c);
            }
            digits.parse::<u32>().ok()
        };
        let Some(least) = number(self) else { return invalid("invalid repetition count(s)") };
        let most = if self.chars.next_if_eq(&',').is_some() { number(self) } else { Some(least) };
        if self.chars.next() != Some('}') || least > 255 || most.is_some_and(|most| most < least || most > 255) {
            return invalid("invalid repetition count(s)");
        }
        Ok((least, most))
    }

    fn piece(&mut self) -> Result<Tree, SqlError> {
        Ok(match self.chars.next() {
            None => Tree::Empty,
            Some('(') => {
                if self.chars.next_if_eq(&'?').is_some() {
                    match self.chars.next() {
                        Some(':') => {}
                        _ => return fail("0A000", "lookahead in regular expressions is not supported"),
                    }
                } else {
                    self.captures = true;
                }
                let inner = self.either()?;
                if self.chars.next() != Some(')') {
                    return invalid("parentheses () not balanced");
                }
                inner
            }
            Some('[') => Tree::Set(self.class()?),
            Some('.') => Tree::Set(Set::Any),
            Some('^') => Tree::At(Place::Start),
            Some('$') => Tree::At(Place::End),
            Some('*' | '+' | '?') => return invalid("quantifier operand invalid"),
            Some('\\') => self.escaped()?,
            Some(c) => Tree::Set(Set::One(c)),
        })
    }

    fn escaped(&mut self) -> Result<Tree, SqlError> {
        let Some(c) = self.chars.next() else { return invalid("invalid escape \\ sequence") };
        if let Some(ranges) = shorthand(c.to_ascii_lowercase())
            && c.is_ascii_alphabetic()
        {
            return Ok(Tree::Set(Set::Class(ranges, c.is_ascii_uppercase())));
        }
        Ok(match c {
            'A' => Tree::At(Place::Start),
            'Z' => Tree::At(Place::End),
            'm' => Tree::At(Place::WordStart),
            'M' => Tree::At(Place::WordEnd),
            'y' => Tree::At(Place::WordEdge),
            '1'..='9' => return fail("0A000", "back references in regular expressions are not supported"),
            c => match control(c) {
                Some(c) => Tree::Set(Set::One(c)),
                None if c.is_ascii_alphanumeric() => return invalid("invalid escape \\ sequence"),
                None => Tree::Set(Set::One(c)),
            },
        })
    }

    /// What follows `[`.
    fn class(&mut self) -> Result<Set, SqlError> {
        let negated = self.chars.next_if_eq(&'^').is_some();
        let mut ranges = Vec::new();
        let mut first = true;
        loop {
            let Some(c) = self.chars.next() else { return invalid("brackets [] not balanced") };
            if c == ']' && !first {
                return Ok(Set::Class(ranges, negated));
            }
            first = false;
            if c == '[' && self.chars.next_if_eq(&':').is_some() {
                let mut name = String::new();
                while let Some(c) = self.chars.next_if(|c| c.is_ascii_alphabetic()) {
                    name.push(c);
                }
                if self.chars.next() != Some(':') || self.chars.next() != Some(']') {
                    return invalid("brackets [] not balanced");
                }
                match named(&name) {
                    Some(named) => ranges.extend(named),
                    None => return invalid("invalid character class"),
                }
                continue;
            }
            let from = if c == '\\' {
                match self.chars.next() {
                    Some(c) if shorthand(c).is_some() => {
                        ranges.extend(shorthand(c).unwrap_or_default());
                        continue;
                    }
                    Some(c) => control(c).unwrap_or(c),
                    None => return invalid("invalid escape \\ sequence"),
                }
            } else {
                c
            };
            let mut ahead = self.chars.clone();
            if ahead.next() == Some('-') && ahead.next().is_some_and(|next| next != ']') {
                self.chars.next();
                let to = match self.chars.next() {
                    Some('\\') => self.chars.next().map(|c| control(c).unwrap_or(c)),
                    other => other,
                };
                match to {
                    Some(to) if to >= from => ranges.push((from, to)),
                    _ => return invalid("invalid character range"),
                }
            } else {
                ranges.push((from, from));
            }
        }
    }
}

fn control(c: char) -> Option<char> {
    Some(match c {
        'n' => '\n',
        't' => '\t',
        'r' => '\r',
        'f' => '\u{c}',
        'v' => '\u{b}',
        'a' => '\u{7}',
        'b' => '\u{8}',
        'e' => '\u{1b}',
        _ => return None,
    })
}

fn shorthand(c: char) -> Option<Vec<(char, char)>> {
    match c {
        'd' => named("digit"),
        's' => named("space"),
        'w' => {
            let mut ranges = named("alnum")?;
            ranges.push(('_', '_'));
            Some(ranges)
        }
        _ => None,
    }
}

/// Character classes; letters beyond ASCII count as letters.
fn named(name: &str) -> Option<Vec<(char, char)>> {
    let beyond = ('\u{c0}', char::MAX);
    Some(match name {
        "digit" => vec![('0', '9')],
        "alpha" => vec![('a', 'z'), ('A', 'Z'), beyond],
        "alnum" => vec![('0', '9'), ('a', 'z'), ('A', 'Z'), beyond],
        "upper" => vec![('A', 'Z')],
        "lower" => vec![('a', 'z')],
        "space" => vec![(' ', ' '), ('\t', '\r')],
        "blank" => vec![(' ', ' '), ('\t', '\t')],
        "punct" => vec![('!', '/'), (':', '@'), ('[', '`'), ('{', '~')],
        "xdigit" => vec![('0', '9'), ('a', 'f'), ('A', 'F')],
        "cntrl" => vec![('\0', '\u{1f}'), ('\u{7f}', '\u{7f}')],
        "print" => vec![(' ', '~'), ('\u{a0}', char::MAX)],
        "graph" => vec![('!', '~'), ('\u{a1}', char::MAX)],
        _ => return None,
    })
}
