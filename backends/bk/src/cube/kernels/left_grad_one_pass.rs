//! The reverse sweep of `left` in one pass, see [`look_back`](super::look_back).

use burn_cubecl::cubecl;
use cubecl::prelude::*;
use kiln_native::tanh;

use super::{
    Complex,
    gates::slope_of,
    look_back::{Born, Grid, Share, Tiling, number, peek, place, publish, take},
    sums::approximate,
};

/// Words of a tile and lane on the board: the map, and the carry that leaves.
pub const WORDS: usize = 6;
/// A map that multiplies what enters by less is taken for constant: no cotangent of single precision is that much larger
/// than another that matters.
const FORGOTTEN: f32 = 1e-30;
/// Rows that one unit adds up before their sum joins a longer one.
const ROWS: usize = 32;

/// `x -> m x + v`, on carries `beta w`.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
struct Affine {
    m: Complex,
    v: Complex,
}

#[cube]
impl Affine {
    fn set(&mut self, value: Affine) {
        self.m.set(value.m);
        self.v.set(value.v);
    }

    fn apply(self, x: Complex) -> Complex {
        self.m.mul(x).add(self.v)
    }

    /// Followed by another map.
    fn then(self, next: Affine) -> Affine {
        Affine {
            m: next.m.mul(self.m),
            v: next.m.mul(self.v).add(next.v),
        }
    }

    fn store(self, shared: &mut Shared<[f32]>, at: usize, #[comptime] units: usize) {
        shared[at] = self.m.re;
        shared[at + units] = self.m.im;
        shared[at + comptime!(2 * units)] = self.v.re;
        shared[at + comptime!(3 * units)] = self.v.im;
    }

    fn load(shared: &Shared<[f32]>, at: usize, #[comptime] units: usize) -> Affine {
        Affine {
            m: Complex::new(shared[at], shared[at + units]),
            v: Complex::new(
                shared[at + comptime!(2 * units)],
                shared[at + comptime!(3 * units)],
            ),
        }
    }
}

/// A unit's positions along the walk.
#[derive(CubeType)]
struct Own {
    /// Features, and one more: what comes before the last of them, at the sequence's beginning the state.
    x_re: Array<f32>,
    x_im: Array<f32>,
    /// Cotangents, of the other sign in `grad`.
    g_re: Array<f32>,
    g_im: Array<f32>,
    /// `sum s Im L` over the gates that follow from the unit's features, with the slopes `s` of `ln(1 - p)` in `x = beta Im L / eta`.
    along: f32,
}

#[cube]
impl Own {
    fn new(#[comptime] tiling: Tiling) -> Own {
        Own {
            x_re: Array::<f32>::new(comptime!(tiling.count + 1)),
            x_im: Array::<f32>::new(comptime!(tiling.count + 1)),
            g_re: Array::<f32>::new(tiling.count),
            g_im: Array::<f32>::new(tiling.count),
            along: 0.0f32,
        }
    }

    /// Whether all of the unit's positions are inside the sequence, and the one before them. Nearly every unit's are, and then nothing
    /// is asked position by position.
    fn is_full(share: Share, grid: &Grid, #[comptime] tiling: Tiling) -> bool {
        share.first + tiling.count < grid.seq
    }

    /// `grad` is that of the features, or with gates that of `ln(1 - p)`, whose `x` is `ratio Im L` of the position before.
    fn load(
        &mut self,
        features: &[f32],
        state: &[f32],
        grad: &[f32],
        ratio: f32,
        share: Share,
        grid: &Grid,
        #[comptime] tiling: Tiling,
        #[comptime] born: Born,
    ) {
        let heads = grid.heads;
        let last = grid.seq - 1;
        let row = share.batch * grid.seq;
        if Own::is_full(share, grid, tiling) {
            let first = 2 * (row + last - share.first) * heads + share.head;
            #[unroll]
            for j in 0..comptime!(tiling.count + 1) {
                let at = first - 2 * j * heads;
                self.x_re[j] = features[at];
                self.x_im[j] = features[at + heads];
                if comptime!(j < tiling.count && !born.gates) {
                    self.g_re[j] = grad[at];
                    self.g_im[j] = grad[at + heads];
                }
            }
        } else {
            let at_state = 2 * share.batch * heads + share.head;
            #[unroll]
            for j in 0..comptime!(tiling.count + 1) {
                let i = share.first + j;
                let at = 2 * (row + last - min(i, last)) * heads + share.head;
                let mut before = Complex::zero();
                if comptime!(!born.fresh) {
                    before.set(Complex::new(state[at_state], state[at_state + heads]));
                }
                self.x_re[j] = select(i <= last, features[at], before.re);
                self.x_im[j] = select(i <= last, features[at + heads], before.im);
                if comptime!(j < tiling.count && !born.gates) {
                    self.g_re[j] = grad[at];
                    self.g_im[j] = grad[at + heads];
                }
            }
        }
        if comptime!(born.gates) {
            #[unroll]
            for j in 0..tiling.count {
                let i = share.first + j;
                // The gate that follows from a position's feature is that of the next one, which the last has not.
                let next = row + last + 1 - max(min(i, last), 1usize);
                let there = i > 0 && i <= last;
                let slope = slope_of(self.x_im[j] * ratio, grad[next * heads + share.head]);
                let slope = select(there, slope, 0.0f32);
                self.along += slope * self.x_im[j];
                self.g_re[j] = 0.0f32;
                self.g_im[j] = slope * ratio;
            }
        }
    }

    fn value(&self, #[comptime] j: usize) -> Complex {
        Complex::new(self.x_re[j], self.x_im[j])
    }

    fn grad(&self, #[comptime] j: usize) -> Complex {
        Complex::new(self.g_re[j], -self.g_im[j])
    }
}

/// What a unit adds to the gradients of energy and hopping.
#[derive(CubeType)]
struct Totals {
    energy_re: f32,
    energy_im: f32,
    hopping: f32,
    /// See [`Own`].
    along: f32,
}

#[cube]
impl Totals {
    fn zero() -> Totals {
        Totals {
            energy_re: 0.0f32,
            energy_im: 0.0f32,
            hopping: 0.0f32,
            along: 0.0f32,
        }
    }

    /// Walks the unit's positions with the carry that enters them. `full`: see [`Own::is_full`].
    fn replay(
        &mut self,
        own: &Own,
        entering: Complex,
        beta: f32,
        blend: f32,
        share: Share,
        grid: &Grid,
        potential: &[f32],
        bound: f32,
        ratio: f32,
        grad: &[f32],
        d_potential: &mut [f32],
        d_state: &mut [f32],
        #[comptime] tiling: Tiling,
        #[comptime] born: Born,
        #[comptime] exact: bool,
        #[comptime] full: bool,
    ) {
        let last = grid.seq - 1;
        let first = (share.batch * grid.seq + last - share.first) * grid.heads + share.head;
        let mut carry = Complex::zero();
        carry.set(entering);
        #[unroll]
        for j in 0..tiling.count {
            if comptime!(full) || share.first + j <= last {
                let g = own.grad(j);
                let squared = own.value(j).square();
                let w = squared.mul(g.add(carry));
                let before = own.value(comptime!(j + 1));
                self.hopping += before.re * w.re - before.im * w.im;
                let mut kept = Complex::zero();
                if comptime!(exact) {
                    kept.set(w);
                } else {
                    kept.set(approximate(g, squared, blend));
                }
                self.energy_re += kept.re;
                self.energy_im -= kept.im;
                if share.active {
                    let at = first - j * grid.heads;
                    let mut d_a = -kept.re;
                    if comptime!(born.bounded) {
                        let t = tanh(potential[at] / bound);
                        d_a *= (1.0f32 - t) * (1.0f32 + t);
                    }
                    d_potential[at] = d_a;
                }
                carry.set(w.scale(beta));
                if comptime!(!full) && share.first + j == last && share.active {
                    let at = 2 * share.batch * grid.heads + share.head;
                    let mut of_gate = 0.0f32;
                    if comptime!(born.gates) {
                        // The first gate follows from what entered.
                        let first_gate = grad[share.batch * grid.seq * grid.heads + share.head];
                        let slope = slope_of(before.im * ratio, first_gate);
                        of_gate = slope * ratio;
                        self.along += slope * before.im;
                    }
                    d_state[at] = carry.re;
                    d_state[at + grid.heads] = of_gate - carry.im;
                }
            }
        }
    }
}

/// The gradients of `left`, each tile by one cube, walking from the last position to the first. `board` is all zeros.
/// `sums` is scratch, `[batch * tiles, 3 * heads]`; the last cube of a block of heads adds its columns up, in a fixed order.
/// With gates `grad` is that of the gates, and there is no other; with a bound `potential` is what it was before it.
#[cube(launch_unchecked, address_type = "dynamic")]
pub fn left_adjoint_look_back(
    features: &[f32],
    hopping: &[f32],
    state: &[f32],
    grad: &[f32],
    board: &[Atomic<u32>],
    d_potential: &mut [f32],
    d_state: &mut [f32],
    sums: &mut [f32],
    d_energy: &mut [f32],
    d_hopping: &mut [f32],
    potential: &[f32],
    energy: &[f32],
    bound: f32,
    blend: f32,
    grid: Grid,
    #[comptime] tiling: Tiling,
    #[comptime] born: Born,
    #[comptime] exact: bool,
) {
    let units = comptime!(tiling.units());
    let share = take(board, &grid, tiling);
    if !share.exists {
        terminate!();
    }
    let unit = UNIT_POS as usize;
    let heads = grid.heads;
    let beta = hopping[share.head];
    let mut ratio = 0.0f32;
    if comptime!(born.gates) {
        ratio = beta / energy[heads + share.head];
    }
    let mut own = Own::new(tiling);
    own.load(features, state, grad, ratio, share, &grid, tiling, born);

    // Positions past the last of the walk count as well: what they spoil are maps of later units and tiles, which have none either.
    let mut map = Affine {
        m: Complex::new(1.0f32, 0.0f32),
        v: Complex::new(0.0f32, 0.0f32),
    };
    #[unroll]
    for j in 0..tiling.count {
        let m = own.value(j).square().scale(beta);
        let g = own.grad(j);
        let v = m.mul(map.v.add(g));
        map.set(Affine { m: m.mul(map.m), v });
    }

    let mut maps = Shared::<[f32]>::new_slice(comptime!(4 * units));
    map.store(&mut maps, unit, units);
    sync_cube();
    let levels = comptime!(tiling.subs.next_power_of_two().trailing_zeros());
    #[unroll]
    for level in 0..levels {
        let distance = comptime!(1usize << level);
        if share.sub >= distance {
            let before = Affine::load(&maps, unit - comptime!(distance * tiling.lanes), units);
            map.set(before.then(map));
        }
        sync_cube();
        map.store(&mut maps, unit, units);
        sync_cube();
    }

    let mut entering = Shared::<[f32]>::new_slice(comptime!(2 * tiling.lanes));
    if comptime!(!tiling.whole) {
        if share.sub == comptime!(tiling.subs - 1) {
            let at = place(share.slot, share.lane, 0usize, WORDS, tiling);
            publish(board, at, map.m.re);
            publish(board, at + tiling.lanes, map.m.im);
            publish(board, at + comptime!(2 * tiling.lanes), map.v.re);
            publish(board, at + comptime!(3 * tiling.lanes), map.v.im);
        }
        if share.sub == 0 {
            let x = look_back(board, share, tiling);
            entering[share.lane] = x.re;
            entering[share.lane + tiling.lanes] = x.im;
            let of_tile = comptime!((tiling.subs - 1) * tiling.lanes) + share.lane;
            let leaving = Affine::load(&maps, of_tile, units).apply(x);
            let at = place(share.slot, share.lane, 4usize, WORDS, tiling);
            publish(board, at, leaving.re);
            publish(board, at + tiling.lanes, leaving.im);
        }
        sync_cube();
    }

    let mut carry = Complex::zero();
    if comptime!(!tiling.whole) {
        carry.set(Complex::new(
            entering[share.lane],
            entering[share.lane + tiling.lanes],
        ));
    }
    if share.sub > 0 {
        carry.set(Affine::load(&maps, unit - tiling.lanes, units).apply(carry));
    }
    let mut totals = Totals::zero();
    totals.along = own.along;
    if Own::is_full(share, &grid, tiling) {
        totals.replay(
            &own,
            carry,
            beta,
            blend,
            share,
            &grid,
            potential,
            bound,
            ratio,
            grad,
            d_potential,
            d_state,
            tiling,
            born,
            exact,
            true,
        );
    } else {
        totals.replay(
            &own,
            carry,
            beta,
            blend,
            share,
            &grid,
            potential,
            bound,
            ratio,
            grad,
            d_potential,
            d_state,
            tiling,
            born,
            exact,
            false,
        );
    }

    if comptime!(born.gates) {
        let eta = energy[heads + share.head];
        totals.energy_im -= ratio / eta * totals.along;
        totals.hopping += totals.along / eta;
    }

    // The tile's sums, then, by the last cube of this block of heads, those of all tiles.
    // They go through the memory of the maps, which is free again.
    sync_cube();
    maps[unit] = totals.energy_re;
    maps[unit + units] = totals.energy_im;
    maps[unit + comptime!(2 * units)] = totals.hopping;
    sync_cube();
    let tile_row = share.batch * grid.tiles + share.tile;
    if share.sub == 0 && share.active {
        let at = 3 * tile_row * heads + share.head;
        sums[at] = add_up(&maps, share.lane, 0usize, tiling);
        sums[at + heads] = add_up(&maps, share.lane, 1usize, tiling);
        sums[at + 2 * heads] = add_up(&maps, share.lane, 2usize, tiling);
    }
    let mut arrived = Shared::<[u32]>::new_slice(1usize);
    sync_storage();
    if unit == 0 {
        let counter = place(grid.total, 0usize, 0usize, WORDS, tiling) + share.block;
        arrived[0] = board[counter].fetch_add(1u32);
    }
    sync_storage();
    let rows = grid.total / grid.blocks;
    if arrived[0] as usize == rows - 1 {
        #[unroll]
        for part in 0..3 {
            let mut total = 0.0f32;
            let mut first = share.sub;
            while first < rows {
                let mut run = 0.0f32;
                for k in 0..ROWS {
                    let r = first + k * tiling.subs;
                    if r < rows {
                        run += sums[(3 * r + part) * heads + share.head];
                    }
                }
                total += run;
                first += comptime!(ROWS * tiling.subs);
            }
            maps[unit + part * units] = total;
        }
        sync_cube();
        if share.sub == 0 && share.active {
            d_energy[share.head] = add_up(&maps, share.lane, 0usize, tiling);
            d_energy[heads + share.head] = add_up(&maps, share.lane, 1usize, tiling);
            d_hopping[share.head] = add_up(&maps, share.lane, 2usize, tiling);
        }
    }
}

/// The sum over the units of a head.
#[cube]
fn add_up(
    partial: &Shared<[f32]>,
    lane: usize,
    #[comptime] part: usize,
    #[comptime] tiling: Tiling,
) -> f32 {
    let mut sum = 0.0f32;
    #[unroll]
    for sub in 0..tiling.subs {
        sum += partial[lane + comptime!(part * tiling.units() + sub * tiling.lanes)];
    }
    sum
}

/// The carry that enters a tile.
#[cube]
fn look_back(board: &[Atomic<u32>], share: Share, #[comptime] tiling: Tiling) -> Complex {
    let mut m = Complex::new(1.0f32, 0.0f32);
    let mut v = Complex::zero();
    let mut x = Complex::zero();
    let mut left = share.tile;
    while left > 0 {
        let at = place(
            share.slot - share.tile + left - 1,
            share.lane,
            0usize,
            WORDS,
            tiling,
        );
        let value_re = peek(board, at + comptime!(4 * tiling.lanes));
        let value_im = peek(board, at + comptime!(5 * tiling.lanes));
        if value_re != 0 && value_im != 0 {
            x.set(Complex::new(number(value_re), number(value_im)));
            left = 0;
        } else {
            let w0 = peek(board, at);
            let w1 = peek(board, at + tiling.lanes);
            let w2 = peek(board, at + comptime!(2 * tiling.lanes));
            let w3 = peek(board, at + comptime!(3 * tiling.lanes));
            if w0 != 0 && w1 != 0 && w2 != 0 && w3 != 0 {
                // Preceded by the map of the earlier tile.
                v.set(m.mul(Complex::new(number(w2), number(w3))).add(v));
                m.set(m.mul(Complex::new(number(w0), number(w1))));
                left -= 1;
                if m.size() < FORGOTTEN {
                    left = 0;
                }
            }
        }
    }
    m.mul(x).add(v)
}
