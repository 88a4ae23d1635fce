//! Units that work on one row together, and their sums.

use burn_cubecl::cubecl;
use cubecl::{calculate_cube_count_elemwise, ir::features::Plane, prelude::*};

/// Units of a cube of teams, if one row does not need more.
const CUBE_UNITS: usize = 256;
/// Most units of a team.
const MOST_LANES: usize = 512;
/// Vectors of a row for each unit of a team, up to where teams are as large as they get.
const STEPS: usize = 4;
/// Steps up to which a row is held in registers, and loops over them are unrolled, so that loads are issued together.
const HELD: usize = 8;

/// How a cube divides among rows: `count` teams of `lanes` units, each with one row of `vectors` at a time.
///
/// A team is made of whole planes, within which the device adds up, or, for short rows, is a part of one. Where the device does not
/// add up, which is the case for software devices, a team is one unit: nothing is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Team {
    /// Units of a team, a power of two.
    pub lanes: usize,
    /// Teams of a cube.
    pub count: usize,
    /// Vectors of a row.
    pub vectors: usize,
    /// Units of a plane, or 1.
    plane: usize,
}

impl Team {
    /// Teams for rows of `vectors`: a vector for each unit of a short one, so that neighbours load neighbours.
    pub fn new(client: &Client, vectors: usize) -> Self {
        let team = Self::of_lanes(client, vectors, vectors.div_ceil(STEPS));
        let lanes = vectors.max(1).next_power_of_two();
        match lanes < team.lanes {
            true => Self {
                lanes,
                count: team.units() / lanes,
                ..team
            },
            false => team,
        }
    }

    /// Teams of one plane for runs of `steps` numbers a unit.
    pub fn plane(client: &Client, steps: usize) -> Self {
        let team = Self::of_lanes(client, 0, 1);
        Self {
            vectors: steps * team.lanes,
            ..team
        }
    }

    fn of_lanes(client: &Client, vectors: usize, wanted: usize) -> Self {
        let hardware = &client.properties().hardware;
        let plane = plane(client);
        let units = hardware.max_units_per_cube as usize;
        let lanes = match plane {
            1 => 1,
            _ => wanted
                .next_power_of_two()
                .max(plane)
                .min(units.min(MOST_LANES).max(plane)),
        };
        Self {
            lanes,
            count: (CUBE_UNITS.min(units) / lanes).max(1),
            vectors,
            plane,
        }
    }

    pub fn units(self) -> usize {
        self.lanes * self.count
    }

    /// A launch with a team for each of `rows`.
    pub fn launch(self, client: &Client, rows: usize) -> (CubeCount, CubeDim) {
        let dim = CubeDim::new_1d(self.units() as u32);
        let units = rows.div_ceil(self.count) * self.units();
        (calculate_cube_count_elemwise(client, units, dim), dim)
    }

    /// Vectors of a row that a unit has.
    pub fn steps(self) -> usize {
        self.vectors.div_ceil(self.lanes)
    }

    /// Whether a unit holds its vectors in registers; else they are read again.
    pub fn holds(self) -> bool {
        self.steps() <= HELD
    }

    /// Vectors that a unit holds.
    pub fn held(self) -> usize {
        if self.holds() { self.steps() } else { 1 }
    }

    /// Whether every unit has as many vectors.
    pub fn even(self) -> bool {
        self.vectors.is_multiple_of(self.lanes)
    }

    /// Whether the teams of a cube can add up what they hold.
    pub fn meet(self) -> bool {
        self.plane > 1
    }

    /// Numbers that a sum keeps in shared memory.
    fn stage(self) -> usize {
        self.units().div_ceil(self.plane)
    }
}

/// Units of a plane that the device adds up, or 1 where it does not. Devices of software are such, and what units share does not
/// reach the others on all of them.
pub(super) fn plane(client: &Client) -> usize {
    let properties = client.properties();
    let hardware = &properties.hardware;
    let [least, most] = [hardware.plane_size_min, hardware.plane_size_max];
    match properties.features.plane.contains(Plane::Ops) && least == most {
        true => least as usize,
        false => 1,
    }
}

/// The row of a unit's team, if teams take rows in turn.
#[cube]
pub(super) fn team_row(#[comptime] team: Team) -> usize {
    CUBE_POS * comptime!(team.count) + UNIT_POS as usize / comptime!(team.lanes)
}

/// A unit's place in its team.
#[cube]
pub(super) fn team_lane(#[comptime] team: Team) -> usize {
    UNIT_POS as usize % comptime!(team.lanes)
}

/// Shared memory of the sums of a cube's teams.
#[cube]
pub(super) fn stage(#[comptime] team: Team) -> Shared<[f32]> {
    Shared::<[f32]>::new_slice(comptime!(team.stage()))
}

/// The sum over the units of a team, for each of them. All units of the cube come here together.
#[cube]
pub(super) fn team_sum(value: f32, stage: &mut Shared<[f32]>, #[comptime] team: Team) -> f32 {
    let unit = UNIT_POS as usize;
    let (lanes, plane) = comptime!((team.lanes, team.plane));
    let mut total = value;
    if comptime!(plane > 1 && lanes >= plane) {
        total = plane_sum(total);
    }
    if comptime!(lanes < plane) {
        total = sum_of_part(total, lanes);
    }
    if comptime!(lanes > plane) {
        // Those of the last sum have been read.
        sync_cube();
        if unit % plane == 0 {
            stage[unit / plane] = total;
        }
        sync_cube();
        let first = unit / lanes * comptime!(lanes / plane);
        total = 0.0f32;
        #[unroll]
        for i in 0..comptime!(lanes / plane) {
            total += stage[first + i];
        }
    }
    total
}

/// The largest value over the units of a team, for each of them. All units of the cube come here together.
#[cube]
pub(super) fn team_max(value: f32, stage: &mut Shared<[f32]>, #[comptime] team: Team) -> f32 {
    let unit = UNIT_POS as usize;
    let (lanes, plane) = comptime!((team.lanes, team.plane));
    let mut most = value;
    if comptime!(plane > 1 && lanes >= plane) {
        most = plane_max(most);
    }
    if comptime!(lanes < plane) {
        most = max_of_part(most, lanes);
    }
    if comptime!(lanes > plane) {
        sync_cube();
        if unit % plane == 0 {
            stage[unit / plane] = most;
        }
        sync_cube();
        let first = unit / lanes * comptime!(lanes / plane);
        most = stage[first];
        #[unroll]
        for i in 1..comptime!(lanes / plane) {
            most = max(most, stage[first + i]);
        }
    }
    most
}

/// The sum over `lanes` neighbours in a plane of more, for each of them.
#[cube]
pub(super) fn sum_of_part(value: f32, #[comptime] lanes: usize) -> f32 {
    let mut total = value;
    if comptime!(lanes > 1) {
        total += plane_shuffle_xor(total, 1u32);
    }
    if comptime!(lanes > 2) {
        total += plane_shuffle_xor(total, 2u32);
    }
    if comptime!(lanes > 4) {
        total += plane_shuffle_xor(total, 4u32);
    }
    if comptime!(lanes > 8) {
        total += plane_shuffle_xor(total, 8u32);
    }
    if comptime!(lanes > 16) {
        total += plane_shuffle_xor(total, 16u32);
    }
    if comptime!(lanes > 32) {
        total += plane_shuffle_xor(total, 32u32);
    }
    total
}

/// The largest value over `lanes` neighbours in a plane of more, for each of them.
#[cube]
fn max_of_part(value: f32, #[comptime] lanes: usize) -> f32 {
    let mut most = value;
    if comptime!(lanes > 1) {
        most = max(most, plane_shuffle_xor(most, 1u32));
    }
    if comptime!(lanes > 2) {
        most = max(most, plane_shuffle_xor(most, 2u32));
    }
    if comptime!(lanes > 4) {
        most = max(most, plane_shuffle_xor(most, 4u32));
    }
    if comptime!(lanes > 8) {
        most = max(most, plane_shuffle_xor(most, 8u32));
    }
    if comptime!(lanes > 16) {
        most = max(most, plane_shuffle_xor(most, 16u32));
    }
    if comptime!(lanes > 32) {
        most = max(most, plane_shuffle_xor(most, 32u32));
    }
    most
}

/// Shared memory of [`add_teams`].
#[cube]
pub(super) fn team_shelf<N: Size>(#[comptime] team: Team) -> Shared<[Vector<f32, N>]> {
    Shared::<[Vector<f32, N>]>::new_slice(comptime!(team.units()))
}

/// The sum over the teams of a cube of what their units hold, for the units of the first team. All units come here together.
#[cube]
pub(super) fn add_teams<N: Size>(
    value: Vector<f32, N>,
    shelf: &mut Shared<[Vector<f32, N>]>,
    #[comptime] team: Team,
) -> Vector<f32, N> {
    let unit = UNIT_POS as usize;
    let mut total = value;
    if comptime!(team.count > 1) {
        // Those of the last sum have been read.
        sync_cube();
        shelf[unit] = value;
        sync_cube();
        if unit < comptime!(team.lanes) {
            for other in 1..comptime!(team.count) {
                total += shelf[unit + other * comptime!(team.lanes)];
            }
        }
    }
    total
}

/// Vector `step` of a unit's share of a row, zeros past the row's end.
#[cube]
fn read<E: Float, N: Size>(
    source: &[Vector<E, N>],
    row: usize,
    step: usize,
    #[comptime] team: Team,
) -> Vector<f32, N> {
    let at = team_lane(team) + step * comptime!(team.lanes);
    let mut value = Vector::<f32, N>::new(0.0f32);
    if comptime!(team.even()) {
        value = Vector::<f32, N>::cast_from(source[row * team.vectors + at]);
    } else if at < comptime!(team.vectors) {
        value = Vector::<f32, N>::cast_from(source[row * team.vectors + at]);
    }
    value
}

/// What a unit holds of a row, if it does.
#[cube]
pub(super) fn hold<E: Float, N: Size>(
    source: &[Vector<E, N>],
    row: usize,
    #[comptime] team: Team,
) -> Array<Vector<f32, N>> {
    let mut held = Array::<Vector<f32, N>>::new(comptime!(team.held()));
    if comptime!(team.holds()) {
        #[unroll]
        for step in 0..comptime!(team.held()) {
            held[step] = read::<E, N>(source, row, step, team);
        }
    }
    held
}

/// Vector `step`, held or read again.
#[cube]
pub(super) fn take<E: Float, N: Size>(
    held: &Array<Vector<f32, N>>,
    source: &[Vector<E, N>],
    row: usize,
    step: usize,
    #[comptime] team: Team,
) -> Vector<f32, N> {
    if comptime!(team.holds()) {
        held[step]
    } else {
        read::<E, N>(source, row, step, team)
    }
}
