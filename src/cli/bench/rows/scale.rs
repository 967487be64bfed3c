//! How throughput moves with the number of gateway processes on one Postgres, and with the number of databases they write.

use super::{Bench, median};
use crate::cli::bench::rig::Gateway;
use crate::cli::bench::table::{Goal, Line};
use crate::error::Result;

/// Processes, and databases that are written.
const PROCESSES: [usize; 3] = [1, 2, 4];
const DATABASES: [usize; 2] = [4, 1];

impl Bench<'_> {
    /// Each beside what one process does with as many databases.
    pub(super) async fn scale(&mut self) -> Result<Vec<Line>> {
        let first = self.rig.gateway("eu", "scale").await?;
        let owner = first.owner.clone();
        let mut gateways = vec![first];
        let mut lines: Vec<Line> = Vec::new();
        for processes in PROCESSES {
            while gateways.len() < processes {
                gateways.push(self.rig.another_gateway("eu", "scale", owner.clone()).await?);
            }
            for databases in DATABASES {
                let mut figures = Vec::new();
                for _ in 0..self.sizes.repeats {
                    self.rig.settle("scale_eu").await?;
                    figures.push(self.spread(&gateways, databases).await?);
                }
                let figure = median(figures);
                let alone = lines.get(DATABASES.iter().position(|known| *known == databases).unwrap_or_default());
                let what = match databases {
                    1 => format!("ops/s into one database, through {processes} gateway processes"),
                    _ => format!("ops/s into {databases} databases spread over {processes} gateway processes"),
                };
                let ceiling = Some(alone.map_or(figure, |alone| alone.figure));
                lines.push(Line { row: "S", what, figure, unit: "ops/s", ceiling, goal: Goal::Told });
            }
        }
        for gateway in gateways {
            gateway.stop().await;
        }
        Ok(lines)
    }

    /// All gateways at once, each with its databases, or all with the one; what they do together.
    async fn spread(&mut self, gateways: &[Gateway], databases: usize) -> Result<f64> {
        let names: Vec<String> = (0..databases).map(|_| self.fresh()).collect();
        let (rig, ops, documents) = (self.rig, self.sizes.bulk / gateways.len() as u64, self.sizes.documents);
        let loads = gateways.iter().enumerate().map(|(at, gateway)| {
            let mine = names.iter().enumerate().filter(|(name, _)| databases == 1 || name % gateways.len() == at);
            let mine: Vec<&str> = mine.map(|(_, name)| name.as_str()).collect();
            let load = format!("--db {} --ops {ops} --documents {documents}", mine.join(","));
            async move { rig.load(gateway, "write", &load).await }
        });
        let measured = futures_util::future::try_join_all(loads).await?;
        let slowest = measured.iter().map(|measured| measured.seconds).fold(f64::EPSILON, f64::max);
        Ok(measured.iter().map(|measured| measured.count as f64).sum::<f64>() / slowest)
    }
}
