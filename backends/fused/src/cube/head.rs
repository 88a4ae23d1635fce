//! The head and its loss in chunks of rows: a product for the scores, one pass over them that leaves the gradient in their place, and
//! two products with it, of which that of the weight adds to those of the chunks before.

use burn::{
    backend::{
        Cube, TensorMetadata,
        ops::FloatTensorOps,
        tensor::{FloatTensor, IntTensor},
    },
    tensor::{DType, Slice},
};
use burn_cubecl::{
    cubecl::{self, calculate_cube_count_elemwise, prelude::*},
    kernel::into_contiguous,
    ops::numeric::zeros_client,
    tensor::CubeTensor,
};
use kiln_matmul::{ProductAdjoint, Sides};

use super::{
    CUBE_UNITS, Primitive, address_type, empty,
    loss::{LEAST, Rows, logit},
    math::nan,
    packed,
    team::{Team, hold, stage, take, team_lane, team_max, team_row, team_sum},
    vector, with_float,
};
use crate::head::{HeadAdjoint, HeadBackend, HeadGradients, LossOptions, chunk_rows};

/// What all chunks share.
struct Head {
    rows: CubeTensor,
    /// `[vocab, d_model]`, of the rows' element type.
    weight: CubeTensor,
    targets: CubeTensor,
    options: LossOptions,
    asked: [bool; 2],
    /// Whether the gradient of the weight lies by columns, as the weight does.
    by_columns: bool,
    nats: CubeTensor,
    minimised: CubeTensor,
}

impl Head {
    /// Scores of the rows from `first` on and what becomes of them: the gradient of these rows, and that of the weight so far.
    fn chunk(
        &self,
        [first, count]: [usize; 2],
        sum: Option<CubeTensor>,
    ) -> [Option<CubeTensor>; 2] {
        let dtype = self.rows.dtype;
        let range = Slice::from(first..first + count);
        let rows = Cube::float_slice(self.rows.clone(), &[range]);
        let weight = self.weight.clone();
        let scores = Cube::product(rows.clone(), weight.clone(), Sides::RightTransposed, dtype);
        let scores = self.lose(into_contiguous(scores), first);
        let [on_rows, on_weight] = self.asked;
        let d_weight = on_weight.then(|| {
            let (a, b) = match self.by_columns {
                true => (rows, scores.clone()),
                false => (scores.clone(), rows),
            };
            let sides = Sides::LeftTransposed;
            match sum {
                None => Cube::product(a, b, sides, DType::F32),
                Some(sum) => Cube::add_product(sum, a, b, sides),
            }
        });
        let d_rows = on_rows.then(|| Cube::product(scores, weight, Sides::Plain, dtype));
        [d_rows, d_weight]
    }

    /// Writes the losses of a chunk of scores, and their gradient in their place if it is asked for.
    fn lose(&self, scores: CubeTensor, first: usize) -> CubeTensor {
        let launch = Rows::new(&scores);
        let terms = self.options.terms;
        // SAFETY: rows that are not there repeat the last one and are not written, and targets are compared with the vocabulary
        // before they are followed.
        unsafe {
            with_float!(scores, E => losses_of_rows::launch_unchecked::<E>(
                &scores.client,
                launch.count,
                launch.dim,
                address_type!(scores),
                launch.wide,
                scores.clone().into_buffer_arg(),
                self.targets.clone().into_buffer_arg(),
                self.nats.clone().into_buffer_arg(),
                self.minimised.clone().into_buffer_arg(),
                first,
                launch.rows,
                launch.vocab,
                TermsOnDeviceLaunch::new(
                    self.options.share(),
                    terms.label_smoothing as f32,
                    terms.z_loss as f32,
                ),
                launch.team,
                self.asked.contains(&true),
                terms.label_smoothing > 0.0,
            ));
        }
        scores
    }
}

/// A weight's element type is that of the rows, and its layout stays as it is.
fn cast(tensor: CubeTensor, dtype: DType) -> CubeTensor {
    match tensor.dtype == dtype {
        true => tensor,
        false => Cube::float_cast(tensor, dtype.into()),
    }
}

impl HeadBackend for Cube {
    fn fused_linear_cross_entropy(
        rows: Primitive,
        weight: Primitive,
        targets: IntTensor<Cube>,
        options: LossOptions,
    ) -> (Primitive, Primitive) {
        let asked = [false; 2];
        let found = Self::linear_cross_entropy_gradients(rows, weight, targets, options, asked);
        (found.minimised, found.nats)
    }
}

impl HeadAdjoint for Cube {
    fn linear_cross_entropy_gradients(
        rows: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        options: LossOptions,
        asked: [bool; 2],
    ) -> HeadGradients<Self> {
        let rows = into_contiguous(rows);
        let [count, d_model] = rows.meta.shape().dims();
        let [vocab, _] = weight.meta.shape().dims::<2>();
        let (dtype, weight_type) = (rows.dtype, weight.dtype);
        let strides = weight.meta.strides();
        let by_columns = strides[0] == 1 && strides[1] >= vocab && vocab > 1;
        let head = Head {
            weight: cast(weight, dtype),
            targets: packed(targets, DType::I32),
            options,
            asked,
            by_columns,
            nats: empty(&rows, [count], DType::F32),
            minimised: empty(&rows, [count], DType::F32),
            rows,
        };
        let chunk = chunk_rows(count, vocab * dtype.size(), options.chunk_bytes);
        let (mut d_rows, mut d_weight) = (Vec::new(), None);
        for first in (0..count).step_by(chunk.max(1)) {
            let [of_rows, sum] = head.chunk([first, chunk.min(count - first)], d_weight.take());
            d_rows.extend(of_rows);
            d_weight = sum;
        }
        let zeros = |shape: [usize; 2], dtype| {
            let (client, device) = (head.rows.client.clone(), head.rows.device.clone());
            zeros_client(client, device, shape.into(), dtype)
        };
        let d_weight = asked[1].then(|| match d_weight {
            None => zeros([vocab, d_model], weight_type),
            Some(sum) if by_columns => cast(Cube::float_transpose(sum), weight_type),
            Some(sum) => cast(sum, weight_type),
        });
        let d_rows = asked[0].then(|| match d_rows.len() {
            0 => zeros([0, d_model], dtype),
            1 => d_rows.remove(0),
            _ => Cube::float_cat(d_rows, 0),
        });
        let minimised = match count {
            0 => zeros_client(
                head.rows.client.clone(),
                head.rows.device.clone(),
                [1].into(),
                DType::F32,
            ),
            _ => Cube::float_sum(head.minimised),
        };
        HeadGradients {
            minimised: Cube::float_mul_scalar(minimised, options.share().into()),
            nats: head.nats,
            rows: d_rows,
            weight: d_weight,
        }
    }

    fn gradient_times(gradient: FloatTensor<Self>, factor: FloatTensor<Self>) -> FloatTensor<Self> {
        let whole =
            gradient.is_contiguous() || Cube::float_transpose(gradient.clone()).is_contiguous();
        if !whole || !gradient.can_mut() {
            let dtype = gradient.dtype;
            let shape = burn::tensor::Shape::from([1, 1]);
            let factor = burn_cubecl::ops::reshape(cast(factor, dtype), shape);
            return Cube::float_mul(gradient, factor);
        }
        let factor = packed(factor, DType::F32);
        let len = gradient.shape().num_elements();
        if len > 0 {
            let wide = vector(&gradient, len);
            let dim = CubeDim::new_1d(CUBE_UNITS);
            // SAFETY: the gradient has no gaps, and surplus units leave at once.
            unsafe {
                with_float!(gradient, E => multiply::launch_unchecked::<E>(
                    &gradient.client,
                    calculate_cube_count_elemwise(&gradient.client, len / wide, dim),
                    dim,
                    address_type!(gradient),
                    wide,
                    gradient.clone().into_buffer_arg(),
                    factor.into_buffer_arg(),
                    len / wide,
                ));
            }
        }
        gradient
    }
}

/// In place; a factor of one, which is what backward usually starts from, costs no memory traffic.
#[cube(launch_unchecked, address_type = "dynamic")]
fn multiply<E: Float, N: Size>(x: &mut [Vector<E, N>], factor: &[f32], total: usize) {
    let factor = factor[0];
    if ABSOLUTE_POS >= total || factor == 1.0f32 {
        terminate!();
    }
    let value = Vector::<f32, N>::cast_from(x[ABSOLUTE_POS]) * Vector::<f32, N>::new(factor);
    x[ABSOLUTE_POS] = Vector::<E, N>::cast_from(value);
}

/// [`LossOptions`] as a kernel is given them.
#[derive(CubeLaunch, CubeType)]
struct TermsOnDevice {
    share: f32,
    smoothing: f32,
    z_loss: f32,
}

/// Losses of the rows from `first` on. With `gradient`, scores become `share (p (1 + 2 z Z) - s / vocab - (1 - s) onehot(target))`.
/// Nothing is read twice where a team holds its row.
#[cube(launch_unchecked, address_type = "dynamic")]
fn losses_of_rows<E: Float, N: Size>(
    scores: &mut [Vector<E, N>],
    targets: &[i32],
    nats: &mut [f32],
    minimised: &mut [f32],
    first: usize,
    rows: usize,
    vocab: usize,
    terms: TermsOnDevice,
    #[comptime] team: Team,
    #[comptime] gradient: bool,
    #[comptime] smoothed: bool,
) {
    let mut shared = stage(team);
    let row = min(team_row(team), rows - 1);
    let target = targets[first + row];
    let counts = target >= 0;
    let label = min(max(target, 0) as usize, vocab - 1);
    // Before the sums, at which a team waits for all its units: afterwards the row is overwritten.
    let score = logit::<E, N>(&*scores, row, label, team);
    let held = hold::<E, N>(&*scores, row, team);
    let mut top = LEAST.runtime();
    let mut parts = Vector::<f32, N>::new(0.0f32);
    #[unroll(team.holds())]
    for step in 0..comptime!(team.steps()) {
        let at = team_lane(team) + step * comptime!(team.lanes);
        if comptime!(team.even()) || at < comptime!(team.vectors) {
            let x = take::<E, N>(&held, &*scores, row, step, team);
            if comptime!(smoothed) {
                parts += x;
            }
            #[unroll]
            for i in 0..x.vector_size() {
                top = max(top, x.extract(i));
            }
        }
    }
    let top = team_max(top, &mut shared, team);
    let mut exponentials = 0.0f32;
    #[unroll(team.holds())]
    for step in 0..comptime!(team.steps()) {
        let at = team_lane(team) + step * comptime!(team.lanes);
        if comptime!(team.even()) || at < comptime!(team.vectors) {
            let x = take::<E, N>(&held, &*scores, row, step, team);
            #[unroll]
            for i in 0..x.vector_size() {
                exponentials += (x.extract(i) - top).exp();
            }
        }
    }
    let total = team_sum(exponentials, &mut shared, team);
    let mut mean = score;
    if comptime!(smoothed) {
        mean = team_sum(parts.vector_sum(), &mut shared, team) / vocab as f32;
    }
    let log_total = total.ln() + top;
    let there = team_row(team) < rows;
    if there && team_lane(team) == 0 {
        let mut lost = total.ln() + (top - score);
        let mut whole =
            lost + terms.smoothing * (score - mean) + terms.z_loss * log_total * log_total;
        if !counts {
            lost = 0.0f32;
            whole = 0.0f32;
        }
        if counts && target as usize >= vocab {
            lost = nan();
            whole = nan();
        }
        nats[first + row] = lost;
        minimised[first + row] = whole;
    }
    if comptime!(gradient) {
        let share = select(counts, terms.share, 0.0f32);
        let factor = share * (1.0f32 + 2.0f32 * terms.z_loss * log_total) / total;
        let less = share * terms.smoothing / vocab as f32;
        let of_label = share * (1.0f32 - terms.smoothing);
        if there {
            #[unroll(team.holds())]
            for step in 0..comptime!(team.steps()) {
                let at = team_lane(team) + step * comptime!(team.lanes);
                if comptime!(team.even()) || at < comptime!(team.vectors) {
                    let x = take::<E, N>(&held, &*scores, row, step, team);
                    let mut value = x;
                    #[unroll]
                    for i in 0..x.vector_size() {
                        let slope = (x.extract(i) - top).exp() * factor - less;
                        let hit = at * x.vector_size() + i == label;
                        value.insert(i, slope - select(hit, of_label, 0.0f32));
                    }
                    scores[row * team.vectors + at] = Vector::<E, N>::cast_from(value);
                }
            }
        }
    }
}
