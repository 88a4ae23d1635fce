//! The backends `kiln` can be built with, and which one a command line asks for.

use std::ffi::OsString;

use crate::Error;

/// One backend, named as its cargo feature and as `--backend` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// Burn's pure Rust CPU backend: the default features, always built.
    Flex,
    Wgpu,
    Vulkan,
    Webgpu,
    Metal,
    Cuda,
    Rocm,
}

impl Backend {
    pub const ALL: [Backend; 7] = [
        Backend::Flex,
        Backend::Wgpu,
        Backend::Vulkan,
        Backend::Webgpu,
        Backend::Metal,
        Backend::Cuda,
        Backend::Rocm,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Backend::Flex => "flex",
            Backend::Wgpu => "wgpu",
            Backend::Vulkan => "vulkan",
            Backend::Webgpu => "webgpu",
            Backend::Metal => "metal",
            Backend::Cuda => "cuda",
            Backend::Rocm => "rocm",
        }
    }

    pub fn parse(name: &str) -> Result<Backend, Error> {
        Backend::ALL
            .into_iter()
            .find(|backend| backend.name() == name)
            .ok_or_else(|| {
                let valid = Backend::ALL.map(Backend::name).join(", ");
                Error::Usage(format!("unknown backend `{name}`; valid: {valid}"))
            })
    }

    /// The cargo arguments that compile this backend in.
    ///
    /// Flex adds none: it is the default feature, and the same build must serve tests and binary.
    pub fn feature_args(self) -> Vec<String> {
        match self {
            Backend::Flex => vec![],
            other => vec!["--features".into(), other.name().into()],
        }
    }
}

/// The backend that `--backend B` or `--backend=B` names among `args`, before any `--`; the last one counts.
pub fn find(args: &[OsString]) -> Result<Backend, Error> {
    let mut backend = Backend::Flex;
    let mut args = args.iter().map(|arg| arg.to_string_lossy());
    while let Some(arg) = args.next() {
        if arg == "--" {
            break;
        } else if arg == "--backend" {
            backend = Backend::parse(&args.next().ok_or_else(missing_value)?)?;
        } else if let Some(name) = arg.strip_prefix("--backend=") {
            backend = Backend::parse(name)?;
        }
    }
    Ok(backend)
}

/// The error for a `--backend` that nothing follows.
pub fn missing_value() -> Error {
    Error::Usage("`--backend` needs a name".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find_in(line: &str) -> Result<Backend, Error> {
        find(
            &line
                .split_whitespace()
                .map(OsString::from)
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn default_is_flex() {
        assert_eq!(find_in("quickstart --out runs/a").unwrap(), Backend::Flex);
    }

    #[test]
    fn both_spellings_and_the_last_one_counts() {
        assert_eq!(find_in("a --backend vulkan").unwrap(), Backend::Vulkan);
        assert_eq!(find_in("a --backend=cuda --resume").unwrap(), Backend::Cuda);
        assert_eq!(
            find_in("--backend cuda --backend=flex").unwrap(),
            Backend::Flex
        );
        assert_eq!(find_in("-- --backend cuda").unwrap(), Backend::Flex);
    }

    #[test]
    fn unknown_or_missing_backend_is_wrong_usage() {
        let Err(Error::Usage(message)) = find_in("a --backend vulcan") else {
            panic!("accepted")
        };
        assert_eq!(
            message,
            "unknown backend `vulcan`; valid: flex, wgpu, vulkan, webgpu, metal, cuda, rocm"
        );
        let Err(Error::Usage(message)) = find_in("a --backend") else {
            panic!("accepted")
        };
        assert_eq!(message, "`--backend` needs a name");
    }
}
