//! Chunks as Moebius maps: their composition, and the values that enter them.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::{
    Complex, Dims, Medium, TILE, Unit,
    diagonal_grad::{Step, own},
};

/// `x -> (p x + q) / (r x + s)`, up to a common factor of the four.
#[derive(CubeType)]
struct Moebius {
    p: Complex,
    q: Complex,
    r: Complex,
    s: Complex,
}

#[cube]
impl Moebius {
    fn identity() -> Moebius {
        Moebius {
            p: Complex::new(1.0f32, 0.0f32),
            q: Complex::new(0.0f32, 0.0f32),
            r: Complex::new(0.0f32, 0.0f32),
            s: Complex::new(1.0f32, 0.0f32),
        }
    }

    fn load(maps: &[f32], row: usize, unit: Unit) -> Moebius {
        Moebius {
            p: Complex::load_part(maps, row, unit, 0usize, 4usize),
            q: Complex::load_part(maps, row, unit, 1usize, 4usize),
            r: Complex::load_part(maps, row, unit, 2usize, 4usize),
            s: Complex::load_part(maps, row, unit, 3usize, 4usize),
        }
    }

    /// Row `row` of `[rows, 8 * heads]`.
    fn store(&self, maps: &mut [f32], row: usize, unit: Unit) {
        self.p.store_part(maps, row, unit, 0usize, 4usize);
        self.q.store_part(maps, row, unit, 1usize, 4usize);
        self.r.store_part(maps, row, unit, 2usize, 4usize);
        self.s.store_part(maps, row, unit, 3usize, 4usize);
    }

    /// Becomes the map with these coefficients, scaled to size one.
    fn set(&mut self, p: Complex, q: Complex, r: Complex, s: Complex) {
        let f = 1.0f32 / (p.size() + q.size() + r.size() + s.size());
        self.p.set(p.scale(f));
        self.q.set(q.scale(f));
        self.r.set(r.scale(f));
        self.s.set(s.scale(f));
    }

    /// Followed by another map.
    fn then(&mut self, next: &Moebius) {
        let p = next.p.mul(self.p).add(next.q.mul(self.r));
        let q = next.p.mul(self.q).add(next.q.mul(self.s));
        let r = next.r.mul(self.p).add(next.s.mul(self.r));
        let s = next.r.mul(self.q).add(next.s.mul(self.s));
        self.set(p, q, r, s);
    }

    /// Followed by `x -> 1 / (alpha - beta x)`.
    fn then_resolvent(&mut self, alpha: Complex, beta: f32) {
        let r = alpha.mul(self.r).add(self.p.scale(-beta));
        let s = alpha.mul(self.s).add(self.q.scale(-beta));
        let p = self.r.scale(1.0f32);
        let q = self.s.scale(1.0f32);
        self.set(p, q, r, s);
    }

    /// Followed by `x -> m x + v`.
    fn then_affine(&mut self, m: Complex, v: Complex) {
        let p = m.mul(self.p).add(v.mul(self.r));
        let q = m.mul(self.q).add(v.mul(self.s));
        let r = self.r.scale(1.0f32);
        let s = self.s.scale(1.0f32);
        self.set(p, q, r, s);
    }

    fn apply(&self, x: Complex) -> Complex {
        let numerator = self.p.mul(x).add(self.q);
        numerator.over(self.r.mul(x).add(self.s))
    }
}

/// The map of every chunk for `sweep`: `[batch, chunks, 8 * heads]`.
#[cube(launch_unchecked, address_type = "dynamic")]
pub fn sweep_maps(
    potential: &[f32],
    hopping: &[f32],
    energy: &[f32],
    maps: &mut [f32],
    dims: Dims,
    #[comptime] reverse: bool,
) {
    if ABSOLUTE_POS >= dims.units {
        terminate!();
    }
    let unit = Unit::of(&dims);
    let medium = Medium::load(hopping, energy, unit);
    let mut map = Moebius::identity();
    for tile in 0..unit.count.div_ceil(TILE) {
        let mut a = Array::<f32>::new(TILE);
        #[unroll]
        for j in 0..TILE {
            a[j] = potential[unit.step(tile * TILE + j, reverse) * unit.heads + unit.head];
        }
        #[unroll]
        for j in 0..TILE {
            if tile * TILE + j < unit.count {
                let alpha = Complex::new(a[j] - medium.z.re, -medium.z.im);
                map.then_resolvent(alpha, medium.beta);
            }
        }
    }
    map.store(maps, unit.row, unit);
}

/// The map of every chunk for `left_adjoint`: from the carry that enters it to the one that leaves it.
#[cube(launch_unchecked, address_type = "dynamic")]
pub fn left_adjoint_maps(
    features: &[f32],
    hopping: &[f32],
    grad: &[f32],
    maps: &mut [f32],
    dims: Dims,
) {
    if ABSOLUTE_POS >= dims.units {
        terminate!();
    }
    let unit = Unit::of(&dims);
    let beta = hopping[unit.head];
    let mut map = Moebius::identity();
    for i in 0..unit.count {
        let row = unit.step(i, true);
        let x = Complex::load(features, row, unit);
        let g = Complex::load(grad, row, unit).conj();
        let m = x.square().scale(beta);
        map.then_affine(m, m.mul(g));
    }
    map.store(maps, unit.row, unit);
}

/// The map of every chunk for `diagonal_adjoint`.
#[cube(launch_unchecked, address_type = "dynamic")]
pub fn diagonal_adjoint_maps(
    hopping: &[f32],
    grad: &[f32],
    left: &[f32],
    right: &[f32],
    maps: &mut [f32],
    dims: Dims,
    #[comptime] reverse: bool,
) {
    if ABSOLUTE_POS >= dims.units {
        terminate!();
    }
    let unit = Unit::of(&dims);
    let beta = hopping[unit.head];
    let mut map = Moebius::identity();
    for i in 0..unit.count {
        let row = unit.step(i, reverse);
        let step = Step::load(grad, left, right, row, unit, reverse);
        let x = own(left, right, row, unit, reverse);
        let m = step.g.mul(step.squared_centre(x, beta));
        map.then_affine(x.square().scale(beta), m.scale(beta));
    }
    map.store(maps, unit.row, unit);
}

/// Composes groups of `dims.chunk` maps, in the order of the walk: `[batch, seq, 8 * heads]` to `[batch, chunks, 8 * heads]`.
#[cube(launch_unchecked, address_type = "dynamic")]
pub fn compose(maps: &[f32], groups: &mut [f32], dims: Dims, #[comptime] reverse: bool) {
    if ABSOLUTE_POS >= dims.units {
        terminate!();
    }
    let unit = Unit::of(&dims);
    let mut map = Moebius::identity();
    for i in 0..unit.count {
        map.then(&Moebius::load(maps, unit.step(i, reverse), unit));
    }
    map.store(groups, unit.row, unit);
}

/// What enters every member of a group, from what enters the group: `[batch, chunks, 2 * heads]` to `[batch, seq, 2 * heads]`.
#[cube(launch_unchecked, address_type = "dynamic")]
pub fn descend(
    maps: &[f32],
    entering: &[f32],
    members: &mut [f32],
    dims: Dims,
    #[comptime] reverse: bool,
) {
    if ABSOLUTE_POS >= dims.units {
        terminate!();
    }
    let unit = Unit::of(&dims);
    let x = Complex::load(entering, unit.row, unit);
    let mut re = x.re;
    let mut im = x.im;
    for i in 0..unit.count {
        let row = unit.step(i, reverse);
        let x = Complex::new(re, im);
        x.store(members, row, unit);
        let x = Moebius::load(maps, row, unit).apply(x);
        re = x.re;
        im = x.im;
    }
}
