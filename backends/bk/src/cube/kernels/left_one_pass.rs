//! `left` in one pass, see [`look_back`](super::look_back).

use burn_cubecl::cubecl;
use cubecl::prelude::*;
use kiln_native::{reciprocal, tanh};

use super::{
    Complex,
    gates::kept_of,
    look_back::{Born, Grid, Share, Tiling, number, peek, place, publish, take},
};

/// Positions after which a map under composition is scaled: four factors of up to 1e9 stay representable.
const RESCALE: usize = 4;
/// Words of a tile and lane on the board: the map, its determinant, and the value that leaves.
pub const WORDS: usize = 11;

/// The power of two from `1 / x` to below `2 / x`, of a positive normal `x` below `2^127`: what is multiplied by it is not rounded.
#[cube]
fn inverse_power(x: f32) -> f32 {
    // The exponent, of bias 127, is mirrored.
    f32::reinterpret(0x7F00_0000u32 - (u32::reinterpret(x) & 0x7F80_0000u32))
}

/// `x -> (p x + q) / (r x + s)` up to a common factor, with its determinant `p s - q r`, which is real: every position
/// multiplies it by `beta`, and a scaling by its square.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
struct Map {
    p: Complex,
    q: Complex,
    r: Complex,
    s: Complex,
    det: f32,
}

#[cube]
impl Map {
    fn identity() -> Map {
        Map {
            p: Complex::new(1.0f32, 0.0f32),
            q: Complex::new(0.0f32, 0.0f32),
            r: Complex::new(0.0f32, 0.0f32),
            s: Complex::new(1.0f32, 0.0f32),
            det: 1.0f32,
        }
    }

    fn set(&mut self, value: Map) {
        self.p.set(value.p);
        self.q.set(value.q);
        self.r.set(value.r);
        self.s.set(value.s);
        self.det = value.det;
    }

    /// Of a size between one and two.
    fn scaled(self) -> Map {
        let size = self.p.size() + self.q.size() + self.r.size() + self.s.size();
        let f = inverse_power(size);
        Map {
            p: self.p.scale(f),
            q: self.q.scale(f),
            r: self.r.scale(f),
            s: self.s.scale(f),
            det: self.det * f * f,
        }
    }

    /// Followed by `x -> 1 / (alpha - beta x)`.
    fn then_resolvent(self, alpha: Complex, beta: f32) -> Map {
        Map {
            p: self.r,
            q: self.s,
            r: alpha.mul(self.r).add(self.p.scale(-beta)),
            s: alpha.mul(self.s).add(self.q.scale(-beta)),
            det: self.det * beta,
        }
    }

    /// Followed by another map.
    fn then(self, next: Map) -> Map {
        let map = Map {
            p: next.p.mul(self.p).add(next.q.mul(self.r)),
            q: next.p.mul(self.q).add(next.q.mul(self.s)),
            r: next.r.mul(self.p).add(next.s.mul(self.r)),
            s: next.r.mul(self.q).add(next.s.mul(self.s)),
            det: self.det * next.det,
        };
        map.scaled()
    }

    fn apply(self, x: Complex) -> Complex {
        let numerator = self.p.mul(x).add(self.q);
        numerator.over(self.r.mul(x).add(self.s))
    }

    /// Whether all of the closed upper half plane goes to one point, to half a rounding. From
    /// `f(x) - f(0) = det x / ((r x + s) s)`: the pole lies in the lower half plane, so `|r + s / x|` is at least
    /// `-Im(r conj(s)) / |s|`, and the condition is `|f(x) - f(0)| <= 2^-25 |f(0)|` for every such `x`.
    fn is_constant(self) -> bool {
        let distance = self.r.re * self.s.im - self.r.im * self.s.re; // -Im(r conj(s))
        let scale = (self.q.norm() / self.s.norm()).sqrt();
        self.det.abs() <= 2.98e-8f32 * scale * distance
    }

    fn store(self, shared: &mut Shared<[f32]>, at: usize, #[comptime] units: usize) {
        shared[at] = self.p.re;
        shared[at + units] = self.p.im;
        shared[at + comptime!(2 * units)] = self.q.re;
        shared[at + comptime!(3 * units)] = self.q.im;
        shared[at + comptime!(4 * units)] = self.r.re;
        shared[at + comptime!(5 * units)] = self.r.im;
        shared[at + comptime!(6 * units)] = self.s.re;
        shared[at + comptime!(7 * units)] = self.s.im;
        shared[at + comptime!(8 * units)] = self.det;
    }

    fn load(shared: &Shared<[f32]>, at: usize, #[comptime] units: usize) -> Map {
        Map {
            p: Complex::new(shared[at], shared[at + units]),
            q: Complex::new(
                shared[at + comptime!(2 * units)],
                shared[at + comptime!(3 * units)],
            ),
            r: Complex::new(
                shared[at + comptime!(4 * units)],
                shared[at + comptime!(5 * units)],
            ),
            s: Complex::new(
                shared[at + comptime!(6 * units)],
                shared[at + comptime!(7 * units)],
            ),
            det: shared[at + comptime!(8 * units)],
        }
    }
}

/// `L` of every position, each tile by one cube. `board` is all zeros, and not looked at where tiles hold whole sequences.
/// With gates, `kept [batch, seq, heads]` as well; with a bound, of `bound tanh(potential / bound)`. What is not asked for is bound to
/// some other buffer.
#[cube(launch_unchecked, address_type = "dynamic")]
pub fn left_look_back(
    potential: &[f32],
    hopping: &[f32],
    energy: &[f32],
    state: &[f32],
    board: &[Atomic<u32>],
    features: &mut [f32],
    kept: &mut [f32],
    bound: f32,
    grid: Grid,
    #[comptime] tiling: Tiling,
    #[comptime] born: Born,
) {
    let units = comptime!(tiling.units());
    let share = take(board, &grid, tiling);
    if !share.exists {
        terminate!();
    }
    let unit = UNIT_POS as usize;
    let heads = grid.heads;
    let row = share.batch * grid.seq;
    let beta = hopping[share.head];
    let z = Complex::new(energy[share.head], energy[heads + share.head]);

    let mut a = Array::<f32>::new(tiling.count);
    load(potential, &mut a, share, &grid, tiling);
    if comptime!(born.bounded) {
        #[unroll]
        for j in 0..tiling.count {
            a[j] = bound * tanh(a[j] / bound);
        }
    }
    // Positions past the end repeat the last one: their maps are those of later units and tiles, which have none either.
    let mut map = Map::identity();
    #[unroll]
    for j in 0..tiling.count {
        let alpha = Complex::new(a[j] - z.re, -z.im);
        map.set(map.then_resolvent(alpha, beta));
        if comptime!(j % RESCALE == RESCALE - 1 || j == tiling.count - 1) {
            map.set(map.scaled());
        }
    }

    // An inclusive scan over the units of a head (Kogge and Stone), and what it leaves for the unit before.
    let mut maps = Shared::<[f32]>::new_slice(comptime!(9 * units));
    map.store(&mut maps, unit, units);
    sync_cube();
    let levels = comptime!(tiling.subs.next_power_of_two().trailing_zeros());
    #[unroll]
    for level in 0..levels {
        let distance = comptime!(1usize << level);
        if share.sub >= distance {
            let before = Map::load(&maps, unit - comptime!(distance * tiling.lanes), units);
            map.set(before.then(map));
        }
        sync_cube();
        map.store(&mut maps, unit, units);
        sync_cube();
    }

    let mut entering = Shared::<[f32]>::new_slice(comptime!(2 * tiling.lanes));
    let mut start = Complex::zero();
    if comptime!(!born.fresh) {
        start.set(Complex::new(
            state[2 * share.batch * heads + share.head],
            state[(2 * share.batch + 1) * heads + share.head],
        ));
    }
    if comptime!(!tiling.whole) {
        if share.sub == comptime!(tiling.subs - 1) {
            publish_map(board, share, map, tiling);
        }
        if share.sub == 0 {
            let x = look_back(board, share, start, tiling);
            entering[share.lane] = x.re;
            entering[share.lane + tiling.lanes] = x.im;
            let total = Map::load(
                &maps,
                comptime!((tiling.subs - 1) * tiling.lanes) + share.lane,
                units,
            );
            let leaving = total.apply(x);
            publish(
                board,
                place(share.slot, share.lane, 9usize, WORDS, tiling),
                leaving.re,
            );
            publish(
                board,
                place(share.slot, share.lane, 10usize, WORDS, tiling),
                leaving.im,
            );
        }
        sync_cube();
    }

    let mut re = start.re;
    let mut im = start.im;
    if comptime!(!tiling.whole) {
        re = entering[share.lane];
        im = entering[share.lane + tiling.lanes];
    }
    if share.sub > 0 {
        let before = Map::load(&maps, unit - tiling.lanes, units);
        let x = before.apply(Complex::new(re, im));
        re = x.re;
        im = x.im;
    }
    let at = 2 * (row + share.first) * heads + share.head;
    let at_kept = (row + share.first) * heads + share.head;
    #[unroll]
    for j in 0..tiling.count {
        if comptime!(born.gates) && share.first + j < grid.seq && share.active {
            kept[at_kept + j * heads] = kept_of(im, beta / z.im);
        }
        let d_re = a[j] - z.re - beta * re;
        let d_im = z.im + beta * im; // of the conjugate
        let q = reciprocal(d_re * d_re + d_im * d_im);
        re = d_re * q;
        im = d_im * q;
        if share.first + j < grid.seq && share.active {
            features[at + 2 * j * heads] = re;
            features[at + (2 * j + 1) * heads] = im;
        }
    }
}

/// The potentials of a unit, that of the last position past the end.
#[cube]
fn load(
    potential: &[f32],
    a: &mut Array<f32>,
    share: Share,
    grid: &Grid,
    #[comptime] tiling: Tiling,
) {
    let row = share.batch * grid.seq;
    // Nearly every unit has all of its positions, and needs no bound for each.
    if share.first + tiling.count <= grid.seq {
        let at = (row + share.first) * grid.heads + share.head;
        #[unroll]
        for j in 0..tiling.count {
            a[j] = potential[at + j * grid.heads];
        }
    } else {
        #[unroll]
        for j in 0..tiling.count {
            let i = min(share.first + j, grid.seq - 1);
            a[j] = potential[(row + i) * grid.heads + share.head];
        }
    }
}

#[cube]
fn publish_map(board: &[Atomic<u32>], share: Share, map: Map, #[comptime] tiling: Tiling) {
    let at = place(share.slot, share.lane, 0usize, WORDS, tiling);
    let step = tiling.lanes;
    publish(board, at, map.p.re);
    publish(board, at + step, map.p.im);
    publish(board, at + comptime!(2 * step), map.q.re);
    publish(board, at + comptime!(3 * step), map.q.im);
    publish(board, at + comptime!(4 * step), map.r.re);
    publish(board, at + comptime!(5 * step), map.r.im);
    publish(board, at + comptime!(6 * step), map.s.re);
    publish(board, at + comptime!(7 * step), map.s.im);
    publish(board, at + comptime!(8 * step), map.det);
}

/// The value that enters a tile.
#[cube]
fn look_back(
    board: &[Atomic<u32>],
    share: Share,
    start: Complex,
    #[comptime] tiling: Tiling,
) -> Complex {
    let step = tiling.lanes;
    let mut acc = Map::identity();
    let mut re = start.re;
    let mut im = start.im;
    // Tiles of this sequence before the one at hand that the walk has not passed.
    let mut left = share.tile;
    while left > 0 {
        let at = place(
            share.slot - share.tile + left - 1,
            share.lane,
            0usize,
            WORDS,
            tiling,
        );
        let value_re = peek(board, at + comptime!(9 * step));
        let value_im = peek(board, at + comptime!(10 * step));
        if value_re != 0 && value_im != 0 {
            re = number(value_re);
            im = number(value_im);
            left = 0;
        } else {
            let w0 = peek(board, at);
            let w1 = peek(board, at + step);
            let w2 = peek(board, at + comptime!(2 * step));
            let w3 = peek(board, at + comptime!(3 * step));
            let w4 = peek(board, at + comptime!(4 * step));
            let w5 = peek(board, at + comptime!(5 * step));
            let w6 = peek(board, at + comptime!(6 * step));
            let w7 = peek(board, at + comptime!(7 * step));
            let w8 = peek(board, at + comptime!(8 * step));
            let first = w0 != 0 && w1 != 0 && w2 != 0 && w3 != 0;
            let second = w4 != 0 && w5 != 0 && w6 != 0 && w7 != 0;
            if first && second && w8 != 0 {
                let map = Map {
                    p: Complex::new(number(w0), number(w1)),
                    q: Complex::new(number(w2), number(w3)),
                    r: Complex::new(number(w4), number(w5)),
                    s: Complex::new(number(w6), number(w7)),
                    det: number(w8),
                };
                acc.set(map.then(acc));
                left -= 1;
                if left > 0 && acc.is_constant() {
                    re = 0.0f32;
                    im = 0.0f32;
                    left = 0;
                }
            }
        }
    }
    acc.apply(Complex::new(re, im))
}
