//! Patterns of `--ignore` that let nothing go: most likely they are misspelt, and what was meant is not let go.

use super::OverlayRequest;
use crate::mapping::{Checkpoint, Judged};
use crate::watch::{Event, Watch};

/// Warns of those that match no tensor of `new` and no weight of the plan.
pub(super) fn warn(
    request: &OverlayRequest,
    judged: &Judged,
    new: &dyn Checkpoint,
    watch: &dyn Watch,
) {
    let patterns = &request.permissions.ignore;
    // Of several plans one may have what another lacks.
    if patterns.is_empty() || request.shared {
        return;
    }
    let of_base = judged.mapping.inventory.iter().flat_map(|i| &i.tensors);
    let names: Vec<&str> = (new.names().into_iter())
        .chain(judged.mapping.rows.iter().map(|row| row.name.as_str()))
        .chain(of_base.map(|tensor| tensor.name.as_str()))
        .collect();
    for pattern in patterns {
        if !names.iter().any(|name| pattern.matches(name)) {
            watch.event(Event::Warn(&format!(
                "`--ignore {pattern}` matches no tensor of the checkpoint and no weight of the plan, and lets nothing go"
            )));
        }
    }
}
