//! Labels in a plot, moved until none lies on another.

use super::frame::CHARACTER;
use super::html::escape;

/// From one line of text to the next, in pixels.
const LINE: f64 = 16.0;

/// A text that names the point at `(at_x, at_y)`.
pub(super) struct Label {
    text: String,
    color: String,
    at_x: f64,
    at_y: f64,
    x: f64,
    y: f64,
    ends: bool,
    leader: bool,
}

impl Label {
    pub fn new(text: &str, color: String, x: f64, y: f64) -> Self {
        Self {
            text: text.into(),
            color,
            at_x: x,
            at_y: y,
            x,
            y,
            ends: false,
            leader: false,
        }
    }

    pub fn draw(&self, out: &mut String) {
        let (class, x) = (&self.color, self.x);
        if self.leader {
            out.push_str(&format!(
                "<path class=\"leader {class}\" d=\"M{:.1} {:.1}L{:.1} {:.1}\"/>",
                self.at_x + 3.0,
                self.at_y,
                x - 3.0,
                self.y
            ));
        }
        let end = if self.ends { " end" } else { "" };
        let (y, text) = (self.y + 4.0, escape(&self.text));
        out.push_str(&format!(
            "<text class=\"label {class}{end}\" x=\"{x:.1}\" y=\"{y:.1}\">{text}</text>"
        ));
    }

    /// Left and right edge.
    fn sides(&self) -> (f64, f64) {
        let width = self.text.chars().count() as f64 * CHARACTER;
        if self.ends {
            (self.x - width, self.x)
        } else {
            (self.x, self.x + width)
        }
    }
}

/// Sets labels under each other right of `edge`, each as near to its point as the others let it.
pub(super) fn in_margin(labels: &mut [Label], edge: f64, top: f64, bottom: f64) {
    labels.sort_by(|a, b| a.at_y.total_cmp(&b.at_y));
    // Pool adjacent violators: neighbours that would touch become one block around the mean of
    // their points. `(sum of wanted tops, count)` a block.
    let mut blocks: Vec<(f64, usize)> = Vec::new();
    for (index, label) in labels.iter().enumerate() {
        blocks.push((label.at_y - index as f64 * LINE, 1));
        while let [.., above, below] = blocks.as_slice() {
            if above.0 / above.1 as f64 <= below.0 / below.1 as f64 {
                break;
            }
            let joined = (above.0 + below.0, above.1 + below.1);
            blocks.truncate(blocks.len() - 2);
            blocks.push(joined);
        }
    }
    let last_top = (bottom - labels.len().saturating_sub(1) as f64 * LINE).max(top);
    let tops = blocks.iter().flat_map(|(sum, count)| {
        std::iter::repeat_n((sum / *count as f64).clamp(top, last_top), *count)
    });
    for (index, (label, block_top)) in labels.iter_mut().zip(tops).enumerate() {
        label.y = block_top + index as f64 * LINE;
        label.x = edge + 14.0;
        label.leader = (label.y - label.at_y).abs() > 3.0 && edge - label.at_x < 2.0;
    }
}

/// Sets each label beside its own point: right, left, then a little higher and lower, wherever it
/// lies on no other label and no point.
pub(super) fn beside_points(labels: &mut [Label], start: f64, edge: f64) {
    let dots: Vec<(f64, f64)> = labels
        .iter()
        .map(|label| (label.at_x, label.at_y))
        .collect();
    for index in 0..labels.len() {
        let (placed, rest) = labels.split_at_mut(index);
        let label = &mut rest[0];
        let shifts = (0..16)
            .flat_map(|n| [f64::from(n), -f64::from(n)])
            .map(|n| n * LINE / 2.0);
        let places = shifts.flat_map(|shift| [(false, shift), (true, shift)]);
        for (ends, shift) in places.chain([(false, 0.0)]) {
            label.ends = ends;
            label.x = label.at_x + if ends { -10.0 } else { 10.0 };
            label.y = label.at_y + shift;
            let (left, right) = label.sides();
            let clear_of_dots = dots.iter().all(|(x, y)| {
                (y - label.y).abs() >= LINE / 2.0 + 4.0 || x + 6.0 < left || right < x - 6.0
            });
            let clear_of_labels = placed.iter().all(|other| {
                let (from, to) = other.sides();
                (other.y - label.y).abs() >= LINE || to < left || right < from
            });
            if clear_of_dots && clear_of_labels && left > start && right < edge + 20.0 {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(at: &[f64]) -> Vec<Label> {
        at.iter()
            .map(|y| Label::new("name", "s0".into(), 100.0, *y))
            .collect()
    }

    #[test]
    fn margin_labels_do_not_touch_and_stay_inside() {
        let mut all = labels(&[200.0, 199.0, 198.0, 50.0, 10.0]);
        in_margin(&mut all, 100.0, 30.0, 200.0);
        assert!(
            all.windows(2)
                .all(|pair| pair[1].y - pair[0].y >= LINE - 1e-9)
        );
        assert!(all.iter().all(|label| (30.0..=200.0).contains(&label.y)));
        let tops: Vec<f64> = all.iter().map(|label| label.y).collect();
        assert_eq!(tops, [30.0, 50.0, 168.0, 184.0, 200.0]);
        let mut pair = labels(&[100.0, 104.0]);
        in_margin(&mut pair, 100.0, 30.0, 200.0);
        assert_eq!([pair[0].y, pair[1].y], [94.0, 110.0], "around their points");
    }

    #[test]
    fn point_labels_do_not_touch() {
        let mut all = labels(&[50.0, 50.0, 52.0, 60.0]);
        beside_points(&mut all, 0.0, 800.0);
        for (index, a) in all.iter().enumerate() {
            for b in &all[..index] {
                let beside = a.sides().1 < b.sides().0 || b.sides().1 < a.sides().0;
                assert!(beside || (a.y - b.y).abs() >= LINE, "{} and {}", a.y, b.y);
            }
        }
    }

    #[test]
    fn a_label_without_room_on_the_right_goes_left() {
        let mut all = labels(&[50.0]);
        beside_points(&mut all, 0.0, 90.0);
        assert!(all[0].ends && all[0].x < 100.0);
    }
}
