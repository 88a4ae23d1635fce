//! Which Vulkan loader and driver a Linux machine has.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::probe::library;
use crate::workspace::list;

const DRIVER_FOLDERS: [&str; 3] = [
    "usr/share/vulkan/icd.d",
    "etc/vulkan/icd.d",
    "usr/local/share/vulkan/icd.d",
];
/// SwiftShader, a software driver, comes with Chromium.
const SWIFTSHADER: [&str; 3] = [
    "usr/lib/chromium/vk_swiftshader_icd.json",
    "usr/lib64/chromium-browser/vk_swiftshader_icd.json",
    "opt/google/chrome/vk_swiftshader_icd.json",
];
/// Mesa's software driver: crashes on the SPIR-V of cubecl 0.11, so it counts as no driver.
const LAVAPIPE: &str = "lvp_";

const LOADER: &str = "libvulkan.so.1";

/// How to get a software driver on Debian.
pub const ADVICE: &str =
    "a GPU's driver package, or SwiftShader: apt-get install libvulkan1 chromium";

/// The driver that Vulkan programs will use.
#[derive(Debug, PartialEq)]
pub enum Driver {
    /// The user's own choice, through `VK_DRIVER_FILES` or `VK_ICD_FILENAMES`.
    Chosen(OsString),
    /// A GPU's driver that the loader finds by itself.
    Gpu(PathBuf),
    /// SwiftShader, which the loader only finds when told.
    Software(PathBuf),
}

impl Driver {
    /// The driver for this machine, if it has one.
    pub fn find() -> Option<Driver> {
        let chosen = ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"]
            .into_iter()
            .find_map(env::var_os);
        Driver::find_under(Path::new("/"), chosen)
    }

    fn find_under(system: &Path, chosen: Option<OsString>) -> Option<Driver> {
        if let Some(chosen) = chosen.filter(|files| !files.is_empty()) {
            return Some(Driver::Chosen(chosen));
        }
        let gpu = driver_files(system)
            .into_iter()
            .find(|file| has_gpu_for(system, file));
        let swiftshader = SWIFTSHADER.iter().map(|file| system.join(file));
        gpu.map(Driver::Gpu).or_else(|| {
            swiftshader
                .into_iter()
                .find(|file| file.is_file())
                .map(Driver::Software)
        })
    }

    /// The variables a program needs to see this driver, and to tune kernels in bearable time on it.
    pub fn env(&self) -> Vec<(&'static str, &OsStr)> {
        match self {
            Driver::Software(file) => vec![
                ("VK_DRIVER_FILES", file.as_os_str()),
                ("CUBECL_AUTOTUNE_LEVEL", OsStr::new("minimal")),
            ],
            Driver::Chosen(_) | Driver::Gpu(_) => vec![],
        }
    }

    pub fn describe(&self) -> String {
        match self {
            Driver::Chosen(files) => format!("{} (from VK_DRIVER_FILES)", files.display()),
            Driver::Gpu(file) => file.display().to_string(),
            Driver::Software(file) => format!("{} (software)", file.display()),
        }
    }
}

fn driver_files(system: &Path) -> Vec<PathBuf> {
    let folders = DRIVER_FOLDERS.iter().map(|folder| system.join(folder));
    folders
        .flat_map(|folder| list(&folder).into_iter().map(move |name| folder.join(name)))
        .filter(|file| {
            file.extension()
                .is_some_and(|extension| extension == "json")
        })
        .collect()
}

/// Driver files come with packages that other software pulls in, so the device has to be there as well.
fn has_gpu_for(system: &Path, file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    if name.starts_with(LAVAPIPE) {
        false
    } else if name.starts_with("nvidia") {
        system.join("dev/nvidiactl").exists()
    } else {
        let nodes = list(&system.join("dev/dri"));
        nodes
            .iter()
            .any(|node| node.to_string_lossy().starts_with("renderD"))
    }
}

/// The Vulkan loader library, which programs open at run time.
pub fn loader() -> Option<PathBuf> {
    library(LOADER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::library_under;
    use std::fs;

    /// A made-up system that holds these files.
    fn system(files: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for file in files {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        root
    }

    #[test]
    fn without_files_there_is_no_driver() {
        assert_eq!(Driver::find_under(system(&[]).path(), None), None);
        assert_eq!(library_under(system(&[]).path(), None, LOADER), None);
    }

    #[test]
    fn the_users_choice_wins_and_is_left_alone() {
        let root = system(&[SWIFTSHADER[0]]);
        let driver = Driver::find_under(root.path(), Some("mine.json".into())).unwrap();
        assert_eq!(driver, Driver::Chosen("mine.json".into()));
        assert!(driver.env().is_empty());
    }

    #[test]
    fn swiftshader_serves_where_no_gpu_answers() {
        let radeon = "usr/share/vulkan/icd.d/radeon_icd.json";
        let lavapipe = "usr/share/vulkan/icd.d/lvp_icd.json";
        let nvidia = "etc/vulkan/icd.d/nvidia_icd.json";
        let software = |files: &[&str]| {
            let root = system(files);
            let driver = Driver::find_under(root.path(), None).unwrap();
            assert!(
                driver
                    .env()
                    .iter()
                    .any(|(name, _)| *name == "VK_DRIVER_FILES")
                    == matches!(driver, Driver::Software(_))
            );
            matches!(driver, Driver::Software(_))
        };
        assert!(software(&[SWIFTSHADER[0], radeon, lavapipe]));
        assert!(software(&[SWIFTSHADER[0], lavapipe, "dev/dri/renderD128"]));
        assert!(software(&[SWIFTSHADER[0], nvidia]));
        assert!(!software(&[SWIFTSHADER[0], radeon, "dev/dri/renderD128"]));
        assert!(!software(&[nvidia, "dev/nvidiactl"]));
    }

    #[test]
    fn the_loader_is_found_in_the_library_path() {
        let root = system(&["opt/vk/libvulkan.so.1"]);
        let folder = root.path().join("opt/vk");
        let found = library_under(root.path(), Some(folder.clone().into()), LOADER);
        assert_eq!(found, Some(folder.join("libvulkan.so.1")));
    }
}
