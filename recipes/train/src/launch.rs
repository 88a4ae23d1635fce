//! A run from the request for it to its first step.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use kiln_run::recipe::Recipe;
use kiln_run::{Interrupt, Mode, RunFolder, View};
use kiln_text::DataEnv;

use crate::data::{Data, Source};
use crate::device::check_precision;
use crate::init;
use crate::log::Log;
use crate::loss::words_of;
use crate::outcome::{Outcome, Stop};
use crate::recipe::{Resolved, TrainRecipe};
use crate::replicas::{Meeting, Team, check_shared, supervise};
use crate::run::read_resolved;
use crate::setup::{Setup, first_model};
use crate::trainer::Loop;
use crate::tutor::Tutor;
use crate::{OpenDevice, TrainError};

/// A run to be made.
pub struct Request<'a> {
    /// What to train.
    pub recipe: Recipe<TrainRecipe>,
    /// Run folder.
    pub out: PathBuf,
    /// Whether to go on from the newest checkpoint in `out`.
    pub resume: bool,
    /// Where to compute.
    pub device: OpenDevice,
    /// More devices of the same backend, which share every batch with the first one; see [`train`].
    pub beside: Vec<OpenDevice>,
    /// Where the teacher computes, if not where the model is trained.
    pub teacher: Option<OpenDevice>,
    /// Where data comes from.
    pub data: &'a DataEnv,
    /// Folder of the source, for its commit.
    pub source: &'a Path,
    /// Versions of what the binary was built with, by name.
    pub versions: BTreeMap<String, String>,
    /// Face of the progress view.
    pub view: Mode,
    /// Asks for a clean stop.
    pub interrupt: Interrupt,
    /// The energy that the first device has used since some moment, where it tells.
    pub energy: Option<EnergyCounter>,
}

/// Reads joules since some moment in the past; none where that cannot be read now.
pub type EnergyCounter = Box<dyn Fn() -> Option<f64> + Send>;

/// Trains a model as a recipe says, into a run folder.
///
/// On several devices each has a replica of the model and an equal share of every batch's sequences; their gradients are added up, so
/// that the run is that of one device but for the order of sums, and for dropout, whose masks are other ones. The first device
/// evaluates and writes. A run may be resumed on another number of devices.
///
/// # Errors
/// Any of [`TrainError`]; what was checkpointed before stays usable.
pub fn train(request: Request<'_>) -> Result<Outcome, TrainError> {
    let Request {
        recipe,
        out,
        resume,
        device,
        beside,
        teacher,
        data,
        source,
        versions,
        view,
        interrupt,
        energy,
    } = request;
    recipe.value.validate()?;
    let name = device.name.clone();
    let devices: Vec<OpenDevice> = [device].into_iter().chain(beside).collect();
    for open in &devices {
        check_precision(&open.device, recipe.value.precision)?;
    }
    check_shared(&recipe.value, &devices)?;
    if let (Some(teacher), None) = (&teacher, &recipe.value.distill) {
        let why = format!(
            "there is no teacher to be on `{}`: name one, or leave its device out",
            teacher.name
        );
        return Err(TrainError::setting("distill.teacher", "not stated", why));
    }
    let meeting = Arc::new(Meeting::new(devices.len()));
    let run = Prepared {
        recipe,
        out,
        resume,
        devices,
        teacher,
        meeting: Arc::clone(&meeting),
        data: data.clone(),
        source: source.into(),
        versions,
        view,
        interrupt,
        energy,
    };
    match meeting.size() {
        1 => run.train(),
        _ => supervise(&name, &meeting, move || run.train()),
    }
}

/// A run whose devices are there.
struct Prepared {
    recipe: Recipe<TrainRecipe>,
    out: PathBuf,
    resume: bool,
    /// The first is that of rank 0.
    devices: Vec<OpenDevice>,
    teacher: Option<OpenDevice>,
    meeting: Arc<Meeting>,
    data: DataEnv,
    source: PathBuf,
    versions: BTreeMap<String, String>,
    view: Mode,
    interrupt: Interrupt,
    energy: Option<EnergyCounter>,
}

impl Prepared {
    fn train(self) -> Result<Outcome, TrainError> {
        // Before the data is prepared, which can take minutes.
        let started = match self.resume {
            true => written_recipe(&self.out)?,
            false => {
                RunFolder::check_free(&self.out)?;
                None
            }
        };
        let mut recipe = self.recipe;
        init::note_weights(&mut recipe.value, started.as_ref())?;
        let mut view = View::new(0, self.view);
        if let Some(shortcoming) = self.devices[0].shortcoming() {
            view.message(&format!("note: {shortcoming}"));
        }
        let source = Source::open(&recipe.value, &self.data, &mut view)?;
        let resolved = Resolved::new(recipe, source.vocab_size()?)?;
        let data = Data::new(source, resolved.seq)?;
        let device = self.devices[0].device.clone();
        let of_teacher = self.teacher.as_ref().map(|open| &open.device);
        let mut tutor = Tutor::open(&resolved, &data.source, &device, of_teacher)?;
        // What the recipe's runs do not fit is found before there is a folder.
        let first = match self.resume {
            true => None,
            false => Some(first_model(&resolved, &data.source, &device)?),
        };
        if let (Some(tutor), Some(first)) = (&tutor, &first) {
            let lanes = resolved.recipe.value.train.batch;
            tutor.check_student(&first.model, [lanes, resolved.seq])?;
        }
        let folder = match self.resume {
            true => RunFolder::resume(&self.out)?,
            false => RunFolder::create(&self.out)?,
        };
        let teacher = self
            .teacher
            .as_ref()
            .map(|open| format!("{} for the teacher", open.name));
        let names = self.devices.iter().map(|open| open.name.clone());
        let names: Vec<String> = names.chain(teacher).collect();
        let mut setup = Setup {
            checkpoints: folder.checkpoints(),
            resolved,
            data,
            folder,
            device,
            device_name: names.join(", "),
        };
        setup.describe(self.resume, &self.source, self.versions)?;
        let (learner, position, checkpoint) = setup.start(first, &mut view)?;
        if let Some(words) = words_of(learner.terms) {
            view.message(&format!(
                "minimising {words}; losses shown are plain cross-entropy"
            ));
        }
        if let Some(tutor) = &mut tutor {
            let (windows, source) = (&setup.data.train, &setup.data.source);
            let caches = &self.data.cache_dir;
            let (stop, ready) = (
                &self.interrupt,
                tutor.prepare(windows, source, caches, &mut view, &self.interrupt)?,
            );
            let train = match ready {
                true => tutor.written(windows, source, caches, &mut view, stop)?,
                false => None,
            };
            if let Some(train) = train {
                setup.data.train = train;
            } else {
                view.message("stopped as asked; go on with --resume");
                return Ok(Outcome {
                    folder: setup.folder.path().into(),
                    step: position.step,
                    stop: Stop::Interrupted,
                    result: None,
                });
            }
        }
        let resumed = self.resume.then_some(position.step);
        let log = Log::open(&setup, resumed, view, self.energy)?;
        thread::scope(|scope| {
            let (devices, meeting) = (&self.devices, &self.meeting);
            let start = || Team::start(scope, &setup, devices, meeting, checkpoint.as_ref());
            let team = (devices.len() > 1).then(start);
            Loop::new(&setup, team, tutor, position, log, self.interrupt).run(learner)
        })
    }
}

/// The recipe that a run was started with; none if it was killed before it wrote it.
fn written_recipe(out: &Path) -> Result<Option<TrainRecipe>, TrainError> {
    match RunFolder::open(out) {
        Ok(folder) => Ok(Some(read_resolved(&folder)?.recipe.value)),
        Err(_) => Ok(None),
    }
}
