//! `--color`: whether what is printed is styled.

use anstream::ColorChoice;
use std::ffi::OsString;

/// When to use colours.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Colour {
    /// On a terminal, unless the environment says otherwise
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

impl Colour {
    /// What stands on a command line, before it is parsed: what clap says of a wrong one is styled too.
    pub fn asked(words: impl Iterator<Item = OsString>) -> Colour {
        let words: Vec<OsString> = words.take_while(|word| word != "--").collect();
        let value = words.iter().enumerate().find_map(|(at, word)| {
            let word = word.to_str()?;
            let next = || words.get(at + 1)?.to_str();
            (word == "--color")
                .then(next)
                .unwrap_or_else(|| word.strip_prefix("--color="))
        });
        value
            .and_then(|value| <Colour as clap::ValueEnum>::from_str(value, false).ok())
            .unwrap_or_default()
    }

    /// Makes it so for stdout and stderr.
    pub fn obey(self) {
        match self {
            // It looks at NO_COLOR, CLICOLOR, CLICOLOR_FORCE, TERM and the stream.
            Colour::Auto => ColorChoice::Auto,
            Colour::Always => ColorChoice::Always,
            Colour::Never => ColorChoice::Never,
        }
        .write_global();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_found_wherever_it_stands() {
        let asked = |line: &str| Colour::asked(line.split(' ').map(OsString::from));
        assert_eq!(asked("diff --color never a b"), Colour::Never);
        assert_eq!(asked("diff a b --color=always"), Colour::Always);
        for nothing in [
            "diff a b",
            "diff -- --color=never",
            "diff --color",
            "--color=x",
        ] {
            assert_eq!(asked(nothing), Colour::Auto, "{nothing}");
        }
    }
}
