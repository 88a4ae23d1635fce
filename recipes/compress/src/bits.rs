//! How many bits each layer gets, by what they are worth there, within a budget of bytes for all of them.
//!
//! A layer's loss is measured with every number of bits, all other layers being as they were; losses of layers are taken to add up.
//! Then all layers get the fewest bits, and one after the other the step to more of them that saves most for its bytes.

/// A layer with so many bits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// Bits of a weight.
    pub bits: u8,
    /// Bytes of the layer.
    pub bytes: u64,
    /// What the model loses.
    pub loss: f64,
}

/// The place of the choice for each layer, whose choices have more bytes from one to the next. None if the fewest bits are beyond the
/// budget.
pub fn allocate(layers: &[Vec<Choice>], budget: u64) -> Option<Vec<usize>> {
    let mut chosen = vec![0; layers.len()];
    let least: u64 = layers
        .iter()
        .filter_map(|layer| layer.first())
        .map(|choice| choice.bytes)
        .sum();
    let mut left = budget.checked_sub(least)?;
    loop {
        let steps = layers.iter().enumerate().flat_map(|(at, choices)| {
            let now = chosen[at];
            (now + 1..choices.len()).map(move |to| (at, to, choices[now], choices[to]))
        });
        let worth = steps.filter_map(|(at, to, now, then)| {
            let (bytes, saved) = (then.bytes.checked_sub(now.bytes)?, now.loss - then.loss);
            let fits = bytes <= left && saved > 0.0;
            fits.then(|| (saved / bytes.max(1) as f64, at, to, bytes))
        });
        let Some((_, at, to, bytes)) = worth.max_by(|a, b| a.0.total_cmp(&b.0)) else {
            return Some(chosen);
        };
        chosen[at] = to;
        left -= bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Layers of some sizes whose loss falls by four for each bit, from another height in each.
    fn layers(sizes: &[(u64, f64)]) -> Vec<Vec<Choice>> {
        let layer = |(weights, loss): &(u64, f64)| {
            let choice = |bits: u8| Choice {
                bits,
                bytes: weights * u64::from(bits) / 8,
                loss: loss * 4.0_f64.powi(-i32::from(bits)),
            };
            [2, 3, 4, 8].map(choice).to_vec()
        };
        sizes.iter().map(layer).collect()
    }

    fn sum(layers: &[Vec<Choice>], chosen: &[usize]) -> (u64, f64) {
        let of = |(layer, at): (&Vec<Choice>, &usize)| (layer[*at].bytes, layer[*at].loss);
        let all = layers.iter().zip(chosen).map(of);
        all.fold((0, 0.0), |(bytes, loss), (b, l)| (bytes + b, loss + l))
    }

    /// The least loss of all choices within the budget.
    fn best(layers: &[Vec<Choice>], budget: u64) -> f64 {
        let mut least = f64::INFINITY;
        for number in 0..4_usize.pow(layers.len() as u32) {
            let chosen: Vec<usize> = (0..layers.len() as u32)
                .map(|at| number / 4_usize.pow(at) % 4)
                .collect();
            let (bytes, loss) = sum(layers, &chosen);
            if bytes <= budget {
                least = least.min(loss);
            }
        }
        least
    }

    /// Within the budget, better than the same bits for all, and as good as the best there is but for the last step that no longer fits.
    #[test]
    fn bits_go_where_they_save_most() {
        let layers = layers(&[(800, 1.0), (800, 30.0), (1600, 5.0), (8000, 2.0), (80, 9.0)]);
        let whole: u64 = layers.iter().map(|layer| layer[3].bytes).sum();
        for share in [0.26, 0.3, 0.375, 0.4, 0.5, 0.7, 1.0] {
            let budget = (share * whole as f64) as u64;
            let chosen = allocate(&layers, budget).unwrap();
            let (bytes, loss) = sum(&layers, &chosen);
            assert!(bytes <= budget);
            for (at, bits) in [(0, 0.25), (1, 0.375), (2, 0.5), (3, 1.0)] {
                if bits <= share {
                    assert!(loss <= sum(&layers, &[at; 5]).1, "{share}");
                }
            }
            // Where the budget ends at a step of this order, nothing is better.
            assert!(
                (loss - best(&layers, bytes)).abs() < 1e-12,
                "{share}: {loss}"
            );
        }
        assert_eq!(allocate(&layers, whole / 4 - 1), None);
    }

    /// More bits that do not help are not bought; a layer with one choice keeps it.
    #[test]
    fn bits_that_save_nothing_stay_unspent() {
        let mut layers = layers(&[(800, 0.0), (800, 1.0)]);
        layers[1].truncate(1);
        assert_eq!(allocate(&layers, 1 << 20), Some(vec![0, 0]));
    }
}
