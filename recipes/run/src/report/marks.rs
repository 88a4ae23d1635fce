//! Marks and dashes that tell curves apart without colour.

/// Dash patterns of the style sheet.
const DASHES: usize = 5;

/// Outlines around the origin, each about nine pixels across.
const SHAPES: [&str; 8] = [
    "M-4.3 0a4.3 4.3 0 1 0 8.6 0a4.3 4.3 0 1 0-8.6 0Z",
    "M-3.9-3.9H3.9V3.9H-3.9Z",
    "M0-5L4.8 3.6H-4.8Z",
    "M0-5.4L5.4 0L0 5.4L-5.4 0Z",
    "M0 5L4.8-3.6H-4.8Z",
    "M-2-5.4H2V-2H5.4V2H2V5.4H-2V2H-5.4V-2H-2Z",
    "M-5-2.8L-2.8-5L0-2.2L2.8-5L5-2.8L2.2 0L5 2.8L2.8 5L0 2.2L-2.8 5L-5 2.8L-2.2 0Z",
    "M0-5L4.8-1.6L2.9 4.1H-2.9L-4.8-1.6Z",
];

/// The class of the dashes that belong to a mark.
pub(super) fn dash(mark: usize) -> String {
    format!("dash{}", mark % DASHES)
}

/// A mark at a place; `inner` is what it holds, a tooltip.
pub(super) fn shape(mark: usize, x: f64, y: f64, class: &str, inner: &str) -> String {
    let outline = SHAPES[mark % SHAPES.len()];
    format!(
        "<path class=\"{class}\" transform=\"translate({x:.1} {y:.1})\" d=\"{outline}\">{inner}</path>"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Colour, dashes and shape together: the first forty things differ.
    #[test]
    fn marks_and_dashes_differ() {
        let all: std::collections::BTreeSet<_> = (0..40)
            .map(|mark| (dash(mark), SHAPES[mark % SHAPES.len()]))
            .collect();
        assert_eq!(all.len(), 40);
    }
}
