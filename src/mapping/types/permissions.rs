//! What the user allows beyond what is proven.

/// Permissions of a refit; `diff` asks with the same ones.
#[derive(Debug, Clone, Default)]
pub struct Permissions {
    /// The file is meant to hold some of the tensors only: weights that it does not reach have their base values.
    pub partial: bool,
    /// Take a name's word where there is no base and nothing speaks against it.
    pub trust_names: bool,
    /// Tensors or weights whose change is let go.
    pub ignore: Vec<glob::Pattern>,
}

impl Permissions {
    /// Whether the user lets a change of `name` go.
    pub fn ignores(&self, name: &str) -> bool {
        self.ignore.iter().any(|p| p.matches(name))
    }
}
