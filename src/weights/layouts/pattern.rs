//! Patterns of tensor names: text, numbers that are sums of indices, and what may follow.
//!
//! | in a pattern | stands for |
//! |---|---|
//! | `{i}` | any number, the same wherever `i` is written in a row |
//! | `{3b+l+1}` | a number that `b` and `l` give; two unknowns are quotient and remainder of the first's factor |
//! | `{N-i}` | as above; an upper-case letter is a property of the model (see the tables) |
//! | `*` | `weight` or `bias`, at the end |
//! | `**` | whatever follows, at the end |

use std::collections::BTreeMap;

/// Values of the upper-case letters.
pub(super) type Parameters = BTreeMap<char, i64>;

/// More digits than any index has.
const MAX_DIGITS: usize = 6;

/// A pattern of names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern(Vec<Token>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Text(String),
    Number(Sum),
    WeightOrBias,
    Rest,
}

/// A sum of terms `factor · letters`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sum(Vec<Term>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Term {
    factor: i64,
    parameter: Option<char>,
    variable: Option<char>,
}

/// What the variable parts of a pattern are in a name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Bindings<'a> {
    variables: Vec<(char, i64)>,
    tail: Option<&'a str>,
}

impl Bindings<'_> {
    fn get(&self, variable: char) -> Option<i64> {
        let found = self.variables.iter().find(|(v, _)| *v == variable);
        found.map(|(_, n)| *n)
    }
}

impl Term {
    fn parse(text: &str, sign: i64) -> Option<Term> {
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let mut letters = text[digits..].chars().peekable();
        let parameter = letters.next_if(char::is_ascii_uppercase);
        let variable = letters.next_if(char::is_ascii_lowercase);
        let factor = if digits == 0 {
            1
        } else {
            text[..digits].parse().ok()?
        };
        let empty = digits == 0 && parameter.is_none() && variable.is_none();
        (letters.next().is_none() && !empty).then_some(Term {
            factor: sign * factor,
            parameter,
            variable,
        })
    }

    /// The factor with its parameter's value.
    fn factor(&self, parameters: &Parameters) -> Option<i64> {
        match self.parameter {
            None => Some(self.factor),
            Some(p) => Some(self.factor * parameters.get(&p)?),
        }
    }
}

impl Sum {
    fn parse(text: &str) -> Option<Sum> {
        let mut terms = Vec::new();
        let (mut sign, mut start) = (1, 0);
        for (at, c) in text.char_indices().filter(|(_, c)| matches!(c, '+' | '-')) {
            terms.push(Term::parse(&text[start..at], sign)?);
            sign = if c == '+' { 1 } else { -1 };
            start = at + 1;
        }
        terms.push(Term::parse(&text[start..], sign)?);
        Some(Sum(terms))
    }

    fn value(&self, parameters: &Parameters, bound: &Bindings<'_>) -> Option<i64> {
        let mut sum = 0;
        for term in &self.0 {
            let variable = match term.variable {
                None => 1,
                Some(v) => bound.get(v)?,
            };
            sum += term.factor(parameters)? * variable;
        }
        // `{N-i}` may lead below the first block.
        (sum >= 0).then_some(sum)
    }

    /// Binds the unknown variables so that the sum is `number`; `None` where it cannot be.
    fn solve(&self, number: i64, parameters: &Parameters, bound: &mut Bindings<'_>) -> Option<()> {
        let (mut rest, mut unknown) = (number, Vec::new());
        for term in &self.0 {
            let factor = term.factor(parameters)?;
            match term.variable.map(|v| (v, bound.get(v))) {
                None => rest -= factor,
                Some((_, Some(known))) => rest -= factor * known,
                Some((v, None)) => unknown.push((v, factor)),
            }
        }
        match unknown[..] {
            [] => (rest == 0).then_some(()),
            [(v, factor)] if factor != 0 && rest % factor == 0 && rest / factor >= 0 => {
                bound.variables.push((v, rest / factor));
                Some(())
            }
            // Stable Diffusion numbers its blocks on through all levels: `input_blocks.{Sb+l+1}`.
            [(v, factor), (w, 1)] if factor > 0 && rest >= 0 => {
                bound.variables.push((v, rest / factor));
                bound.variables.push((w, rest % factor));
                Some(())
            }
            _ => None,
        }
    }
}

impl Pattern {
    /// Reads a pattern; `None` where braces or stars are not where they may be.
    pub(super) fn parse(text: &str) -> Option<Pattern> {
        let (body, tail) = if let Some(body) = text.strip_suffix("**") {
            (body, Some(Token::Rest))
        } else if let Some(body) = text.strip_suffix('*') {
            (body, Some(Token::WeightOrBias))
        } else {
            (text, None)
        };
        let mut tokens = Vec::new();
        let mut rest = body;
        while let Some((before, after)) = rest.split_once('{') {
            let (sum, following) = after.split_once('}')?;
            if !before.is_empty() {
                tokens.push(Token::Text(before.to_owned()));
            }
            tokens.push(Token::Number(Sum::parse(sum)?));
            rest = following;
        }
        if rest.contains(['}', '*'])
            || (tail.is_some() && !(rest.ends_with('.') || body.is_empty()))
        {
            return None;
        }
        if !rest.is_empty() {
            tokens.push(Token::Text(rest.to_owned()));
        }
        tokens.extend(tail);
        Some(Pattern(tokens))
    }

    /// What the variable parts are in `name`, or `None` where it is no name of this kind.
    pub(super) fn matches<'a>(
        &self,
        name: &'a str,
        parameters: &Parameters,
    ) -> Option<Bindings<'a>> {
        let mut bound = Bindings::default();
        let mut rest = name;
        for token in &self.0 {
            match token {
                Token::Text(text) => rest = rest.strip_prefix(text.as_str())?,
                Token::Number(sum) => {
                    let digits =
                        rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
                    let (number, after) = rest.split_at(digits);
                    // `01` is another name than `1`, which is what filling the pattern again would
                    // write.
                    let padded = number.len() > 1 && number.starts_with('0');
                    if padded || number.len() > MAX_DIGITS {
                        return None;
                    }
                    sum.solve(number.parse().ok()?, parameters, &mut bound)?;
                    rest = after;
                }
                Token::WeightOrBias if matches!(rest, "weight" | "bias") => {
                    bound.tail = Some(rest);
                    rest = "";
                }
                Token::Rest if !rest.is_empty() => {
                    bound.tail = Some(rest);
                    rest = "";
                }
                Token::WeightOrBias | Token::Rest => return None,
            }
        }
        rest.is_empty().then_some(bound)
    }

    /// Whether `name` may be of this kind, whatever the parameters are.
    pub(super) fn could_be(&self, name: &str, parameters: &Parameters) -> bool {
        let letter =
            |t: &Token| matches!(t, Token::Number(s) if s.0.iter().any(|t| t.parameter.is_some()));
        if !self.0.iter().any(letter) {
            return self.matches(name, parameters).is_some();
        }
        let free = |t: &Token| match t {
            Token::Number(_) => Token::Number(Sum(vec![Term {
                factor: 1,
                parameter: None,
                variable: Some('n'),
            }])),
            other => other.clone(),
        };
        let one = self
            .0
            .iter()
            .filter(|t| matches!(t, Token::Number(_)))
            .count()
            == 1;
        one && Pattern(self.0.iter().map(free).collect())
            .matches(name, parameters)
            .is_some()
    }

    /// The name with these values; `None` where one is missing.
    pub(super) fn fill(&self, parameters: &Parameters, bound: &Bindings<'_>) -> Option<String> {
        let mut name = String::new();
        for token in &self.0 {
            match token {
                Token::Text(text) => name.push_str(text),
                Token::Number(sum) => name.push_str(&sum.value(parameters, bound)?.to_string()),
                Token::WeightOrBias | Token::Rest => name.push_str(bound.tail?),
            }
        }
        Some(name)
    }

    /// The pattern of the module that a parameter belongs to: without `*`, `.weight`, `.scale` or
    /// `.gamma` at the end. `None` where it names a parameter of its own.
    pub(super) fn module(&self) -> Option<Pattern> {
        let mut tokens = self.0.clone();
        match tokens.pop()? {
            Token::Rest => return Some(self.clone()),
            Token::WeightOrBias => {
                let Some(Token::Text(text)) = tokens.pop() else {
                    return None;
                };
                let text = text.strip_suffix('.')?;
                if !text.is_empty() {
                    tokens.push(Token::Text(text.to_owned()));
                }
            }
            Token::Text(text) => {
                let module = [".weight", ".scale", ".gamma"]
                    .iter()
                    .find_map(|s| text.strip_suffix(s))?;
                if !module.is_empty() {
                    tokens.push(Token::Text(module.to_owned()));
                }
            }
            Token::Number(_) => return None,
        }
        (!tokens.is_empty()).then_some(Pattern(tokens))
    }

    /// The same pattern with `_` for `.`, as kohya's scripts write module names.
    pub(super) fn flat(&self) -> Pattern {
        let flat = |token: &Token| match token {
            Token::Text(text) => Token::Text(text.replace('.', "_")),
            other => other.clone(),
        };
        Pattern(self.0.iter().map(flat).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).unwrap_or_else(|| panic!("{text}"))
    }

    fn translate(from: &str, to: &str, name: &str, parameters: &[(char, i64)]) -> Option<String> {
        let parameters: Parameters = parameters.iter().copied().collect();
        let bound = pattern(from).matches(name, &parameters)?;
        pattern(to).fill(&parameters, &bound)
    }

    #[test]
    fn indices_and_tails_are_carried_over() {
        let t = |name| translate("a.{i}.x.*", "b.{i}.y.*", name, &[]);
        assert_eq!(t("a.12.x.weight").unwrap(), "b.12.y.weight");
        assert_eq!(t("a.0.x.bias").unwrap(), "b.0.y.bias");
        for wrong in [
            "a.012.x.bias",
            "a..x.bias",
            "a.1.x.scale",
            "a.1.x.weight.b",
            "a.1234567.x.bias",
            "a.1.x.",
        ] {
            assert_eq!(t(wrong), None, "{wrong}");
        }
        let t = |name| translate("m.1.**", "n.0.**", name, &[]);
        assert_eq!(t("m.1.p.0.q.weight").unwrap(), "n.0.p.0.q.weight");
        assert_eq!(t("m.1."), None);
    }

    #[test]
    fn sums_are_solved() {
        let s = [('S', 3)];
        let t = |name| translate("in.{Sb+l+1}.0", "down.{b}.{l}", name, &s);
        assert_eq!(t("in.1.0").unwrap(), "down.0.0");
        assert_eq!(t("in.8.0").unwrap(), "down.2.1");
        assert_eq!(t("in.0.0"), None);
        let t = |name| translate("in.{Sb+S}.op", "down.{b}", name, &s);
        assert_eq!(t("in.6.op").unwrap(), "down.1");
        assert_eq!(t("in.5.op"), None);
        assert_eq!(t("in.0.op"), None);
        let t = |name| translate("up.{N-i}", "up.{i}", name, &[('N', 3)]);
        assert_eq!(t("up.0").unwrap(), "up.3");
        assert_eq!(t("up.4"), None);
        assert_eq!(translate("up.{N-i}", "up.{i}", "up.0", &[]), None);
        let t = |name| translate("h.{2i+2}", "b.{i}", name, &[]);
        assert_eq!(t("h.8").unwrap(), "b.3");
        assert_eq!(t("h.7"), None);
    }

    #[test]
    fn modules_lose_the_parameter_and_flat_ones_their_dots() {
        let m = |text: &str| pattern(text).module();
        assert_eq!(m("a.{i}.x.*").unwrap(), pattern("a.{i}.x"));
        assert_eq!(m("a.{i}.*").unwrap(), pattern("a.{i}"));
        assert_eq!(m("a.norm.scale").unwrap(), pattern("a.norm"));
        assert_eq!(m("a.**").unwrap(), pattern("a.**"));
        assert_eq!(m("a.modulation"), None);
        assert_eq!(pattern("a.{i}.x").flat(), pattern("a_{i}_x"));
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for text in ["a.{", "a.{}", "a.}", "a*.b", "a*", "a.{i+}", "a.{ii}"] {
            assert_eq!(Pattern::parse(text), None, "{text}");
        }
    }
}
