//! The forward and backward passes of an update as one graph of the device, which is recorded once and repeated with other tokens.
//!
//! The optimizer's step is given launch by launch, with its own rate, while the device is at the passes.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use kiln_fused::LossOptions;
use kiln_graph::{Graph, GraphError, Places, pays, record, write_ids};
use kiln_loader::TokenBatch;
use kiln_zoo::LanguageModel;

use crate::TrainError;
use crate::loss::DeviceBatch;

/// Updates alike before one is recorded: the first compiles and tunes kernels, and moves what the optimizer keeps.
const ALIKE_BEFORE: u32 = 2;
/// Recordings after which no more are made: a run that changes all the time would record all the time.
const MOST_RECORDINGS: u32 = 8;
/// Recordings in a row that may fail: another thread of the process that waits for the device meanwhile spoils one, and so does a kernel
/// that is still being tuned.
const MOST_FAILURES: u32 = 3;

/// The recording of a learner's passes, if there is one.
#[derive(Default)]
pub struct RecordedPasses {
    state: State,
    recordings: u32,
    failures: u32,
    /// What happened since it was last asked.
    news: Option<String>,
}

#[derive(Default)]
enum State {
    /// Nothing is recorded.
    #[default]
    Off,
    /// Waits for updates that are alike.
    Waiting(Option<(Likeness, u32)>),
    Ready(Box<Passes>),
}

/// What a graph has written down for good.
#[derive(Clone, Debug, PartialEq)]
struct Likeness {
    /// Of each micro-batch: sequences, tokens of one, targets that count, and whether all do.
    batches: Vec<(usize, usize, usize, bool)>,
    is_seeded: bool,
    options: LossOptions,
    /// The share of a teacher's divergence; none without a teacher.
    taught: Option<f64>,
}

/// What passes read that is another in every step, on the device.
pub(crate) struct Inputs {
    pub batches: Vec<DeviceBatch>,
    pub seed: Option<Tensor<1, Int>>,
}

/// What an update is of, on the host: batches, the seed of dropout's masks, and how losses are weighted and added up.
#[derive(Clone, Copy)]
pub(crate) struct Given<'a> {
    pub batches: &'a [TokenBatch],
    pub seed: Option<u64>,
    pub options: LossOptions,
    /// The share of a teacher's divergence in the loss; none without a teacher.
    pub taught: Option<f64>,
}

/// A graph, what it reads and what it makes.
struct Passes {
    of: Likeness,
    inputs: Inputs,
    graph: Graph,
    grads: GradientsParams,
    sums: Tensor<1>,
}

/// Gradients, and the sums of losses.
pub(crate) type Found = (GradientsParams, Tensor<1>);

impl RecordedPasses {
    /// A recording is made as soon as updates are alike, if it is wanted.
    pub fn new(wanted: bool) -> Self {
        let state = match wanted {
            true => State::Waiting(None),
            false => State::Off,
        };
        Self {
            state,
            ..Self::default()
        }
    }

    /// What the user should know, once: that passes are recorded from now on, or why not.
    pub fn take_news(&mut self) -> Option<String> {
        self.news.take()
    }

    /// Gradients and losses of an update of `model`, by repeating the recording or by making it with `passes`; none if the update is to
    /// be given launch by launch. On the device's own thread.
    pub(crate) fn find(
        &mut self,
        model: &LanguageModel,
        given: Given<'_>,
        device: &Device,
        passes: &mut dyn FnMut(&Inputs) -> Result<Found, TrainError>,
    ) -> Result<Option<Found>, TrainError> {
        if matches!(self.state, State::Off) || !pays(device) {
            return Ok(None);
        }
        let of = Likeness::new(given);
        if let State::Ready(ready) = &self.state
            && ready.of == of
        {
            match ready.repeat(model, given) {
                Ok(found) => return Ok(Some(found)),
                // Weights that were put elsewhere, as those of a restored checkpoint: nothing was done yet.
                Err(GraphError::Moved) => {}
                Err(error) => self.give_up(&error),
            }
        }
        match &mut self.state {
            State::Off => Ok(None),
            State::Waiting(Some((like, times))) if *like == of => {
                *times += 1;
                match *times > ALIKE_BEFORE {
                    true => self.record(of, model, given, device, passes),
                    false => Ok(None),
                }
            }
            State::Waiting(_) | State::Ready(_) => {
                self.state = match self.recordings < MOST_RECORDINGS {
                    true => State::Waiting(Some((of, 1))),
                    false => {
                        self.news = Some(format!(
                            "updates keep changing: after {MOST_RECORDINGS} recordings the passes of a step go on launch by launch"
                        ));
                        State::Off
                    }
                };
                Ok(None)
            }
        }
    }

    fn record(
        &mut self,
        of: Likeness,
        model: &LanguageModel,
        given: Given<'_>,
        device: &Device,
        passes: &mut dyn FnMut(&Inputs) -> Result<Found, TrainError>,
    ) -> Result<Option<Found>, TrainError> {
        self.recordings += 1;
        let inputs = Inputs::new(given, device);
        let (done, graph) = match record(device, places(model), || passes(&inputs)) {
            Ok(recorded) => recorded,
            Err(error) => {
                self.failures += 1;
                match self.failures < MOST_FAILURES {
                    true => self.state = State::Waiting(Some((of, 0))),
                    false => self.give_up(&error),
                }
                return Ok(None);
            }
        };
        self.failures = 0;
        let (grads, sums) = done?;
        let ready = Passes {
            of,
            inputs,
            graph,
            grads,
            sums,
        };
        match ready.repeat(model, given) {
            Ok(found) => {
                self.news = Some("the passes of a step are recorded as one graph".into());
                self.state = State::Ready(Box::new(ready));
                Ok(Some(found))
            }
            Err(error) => {
                self.give_up(&error);
                Ok(None)
            }
        }
    }

    fn give_up(&mut self, error: &GraphError) {
        self.news = Some(format!(
            "the passes of a step are not recorded as one graph, and go on launch by launch: {error}"
        ));
        self.state = State::Off;
    }
}

impl Likeness {
    fn new(given: Given<'_>) -> Self {
        let shape = |batch: &TokenBatch| {
            let counted = batch.num_tokens();
            let all = counted == batch.mask.len();
            (batch.batch, batch.seq, counted, all)
        };
        Self {
            batches: given.batches.iter().map(shape).collect(),
            is_seeded: given.seed.is_some(),
            options: given.options,
            taught: given.taught,
        }
    }
}

impl Inputs {
    fn new(given: Given<'_>, device: &Device) -> Self {
        let batches = given.batches.iter();
        Self {
            batches: batches
                .map(|batch| DeviceBatch::new(batch, device))
                .collect(),
            seed: given.seed.map(|seed| seed_on(device, seed)),
        }
    }

    fn write(&self, given: Given<'_>) -> Result<(), GraphError> {
        for (on_device, batch) in self.batches.iter().zip(given.batches) {
            on_device.write(batch)?;
        }
        match (&self.seed, given.seed) {
            (Some(on_device), Some(seed)) => write_ids(on_device.clone().inner(), &words(seed)),
            _ => Ok(()),
        }
    }
}

/// The seed of a step on its device.
pub(crate) fn seed_on(device: &Device, seed: u64) -> Tensor<1, Int> {
    Tensor::from_data(TensorData::from(words(seed)), (device, DType::I32))
}

/// Two numbers below 2^30, so that masks can be counted from them.
fn words(seed: u64) -> [i32; 2] {
    const BITS: u64 = (1 << 30) - 1;
    [seed & BITS, (seed >> 30) & BITS].map(|word| word as i32)
}

impl Passes {
    fn repeat(&self, model: &LanguageModel, given: Given<'_>) -> Result<Found, GraphError> {
        self.inputs.write(given)?;
        self.graph.replay(&places(model))?;
        let mut copy = Copy {
            from: &self.grads,
            to: GradientsParams::new(),
        };
        model.visit(&mut copy);
        Ok((copy.to, self.sums.clone()))
    }
}

/// Where the weights of a model lie.
fn places(model: &LanguageModel) -> Places {
    let mut visitor = PlacesOf(Places::default());
    model.visit(&mut visitor);
    visitor.0
}

struct PlacesOf(Places);

impl ModuleVisitor for PlacesOf {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.add(param.val().inner());
    }
}

/// Gradients a second time, in the same memory.
struct Copy<'a> {
    from: &'a GradientsParams,
    to: GradientsParams,
}

impl ModuleVisitor for Copy<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(grad) = self.from.get::<D>(param.id) {
            self.to.register(param.id, grad);
        }
    }
}
