//! Who this process is, in the environment variables that torchrun sets.

use thiserror::Error;

/// The environment does not describe a group.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum WorldError {
    /// A variable is missing.
    #[error(
        "{name} is not set; set RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, or start with `sealign-trainer launch`"
    )]
    Missing {
        /// Its name.
        name: &'static str,
    },
    /// A variable is not what it should be.
    #[error("{name} is {value:?}; it must be {expected}")]
    Invalid {
        /// Its name.
        name: &'static str,
        /// Its text.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
}

/// A process's place in the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct World {
    /// Number of this process, from 0.
    pub rank: usize,
    /// Number of processes.
    pub size: usize,
    /// Number of this process on its machine: the index of its device.
    pub local_rank: usize,
    /// Processes on this machine; they share its cores.
    pub local_size: usize,
    /// Host of the rendezvous, where rank 0 listens.
    pub master_address: String,
    /// Its port.
    pub master_port: u16,
}

impl World {
    /// Reads torchrun's variables through `get`; `None` when `WORLD_SIZE` is not set or 1.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, WorldError> {
        let number = |name: &'static str| -> Result<Option<usize>, WorldError> {
            get(name)
                .map(|value| {
                    let expected = "a whole number";
                    value.parse().map_err(|_| WorldError::Invalid { name, value, expected })
                })
                .transpose()
        };
        let size = number("WORLD_SIZE")?.unwrap_or(1);
        if size <= 1 {
            return Ok(None);
        }
        let rank = number("RANK")?.ok_or(WorldError::Missing { name: "RANK" })?;
        if rank >= size {
            let expected = "below WORLD_SIZE";
            return Err(WorldError::Invalid { name: "RANK", value: rank.to_string(), expected });
        }
        let port = get("MASTER_PORT").ok_or(WorldError::Missing { name: "MASTER_PORT" })?;
        let Ok(master_port) = port.parse() else {
            return Err(WorldError::Invalid {
                name: "MASTER_PORT",
                value: port,
                expected: "a port between 0 and 65535",
            });
        };
        Ok(Some(Self {
            rank,
            size,
            local_rank: number("LOCAL_RANK")?.unwrap_or(rank),
            local_size: number("LOCAL_WORLD_SIZE")?.unwrap_or(1).max(1),
            master_address: get("MASTER_ADDR").ok_or(WorldError::Missing { name: "MASTER_ADDR" })?,
            master_port,
        }))
    }

    /// Reads this process's environment.
    pub fn from_environment() -> Result<Option<Self>, WorldError> {
        Self::read(|name| std::env::var(name).ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<World>, WorldError> {
        World::read(|name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn torchruns_variables_make_a_world_and_none_make_none() {
        assert_eq!(read(&[]), Ok(None));
        let world = read(&[
            ("WORLD_SIZE", "4"),
            ("RANK", "3"),
            ("LOCAL_RANK", "1"),
            ("LOCAL_WORLD_SIZE", "2"),
            ("MASTER_ADDR", "job-0.sealign-ranks"),
            ("MASTER_PORT", "29500"),
        ]);
        let world = world.unwrap().unwrap();
        assert_eq!((world.rank, world.size, world.local_rank, world.local_size), (3, 4, 1, 2));
        assert_eq!((world.master_address.as_str(), world.master_port), ("job-0.sealign-ranks", 29500));
    }

    #[test]
    fn an_incomplete_world_names_what_is_missing() {
        assert_eq!(read(&[("WORLD_SIZE", "2")]), Err(WorldError::Missing { name: "RANK" }));
        let rank = read(&[("WORLD_SIZE", "2"), ("RANK", "2"), ("MASTER_PORT", "1"), ("MASTER_ADDR", "a")]);
        assert_eq!(rank.unwrap_err().to_string(), "RANK is \"2\"; it must be below WORLD_SIZE");
        let port = read(&[("WORLD_SIZE", "2"), ("RANK", "0"), ("MASTER_PORT", "http"), ("MASTER_ADDR", "a")]);
        assert!(port.unwrap_err().to_string().contains("MASTER_PORT"));
    }
}
