//! Keys that were deleted, at `majority`, and never written again.
//!
//! A node that has not received the delete may still show the key: its copy is older. Once it has
//! shown that the key is gone, it never shows the key again in that incarnation. Once every node
//! held everything, none ever does.

use std::collections::HashMap;

use crate::checks::{Evidence, Held, Verdict};
use crate::connection::Action;
use crate::keys::Group;

pub fn check(evidence: &Evidence<'_>) -> Verdict {
    let mut verdict = Verdict::new("no deleted key is back");
    let (mut keys, mut looks) = (0, 0);
    for (key, ops) in evidence.group(Group::Gone) {
        let Some(delete) = ops.iter().find(|op| op.action == Action::Del && op.is_majority_acked()) else { continue };
        keys += 1;
        let known_everywhere =
            evidence.converged.iter().filter(|converged| converged.from > delete.completed).map(|converged| converged.until).min();
        // By node and incarnation: 1 for shown, 2 for gone after that.
        let mut shown: HashMap<(u16, u32), u8> = HashMap::new();
        for read in ops.iter().filter(|op| op.action == Action::Get) {
            let Some(found) = read.shown() else { continue };
            looks += 1;
            let stage = shown.entry((read.node, read.incarnation)).or_default();
            match found {
                Some(_) => {
                    verdict.require(*stage < 2, || {
                        format!("n{} showed {key} again, which it had shown to be deleted, at {} us", read.node, read.invoked)
                    });
                    let too_late = known_everywhere.is_some_and(|until| read.invoked > until);
                    verdict.require(!too_late, || {
                        format!("n{} showed {key} at {} us, although every node knew of its delete", read.node, read.invoked)
                    });
                    *stage = (*stage).max(1);
                }
                None if *stage == 1 => *stage = 2,
                None => {}
            }
        }
        for dump in evidence.dumps {
            let held = dump.held(key, evidence.dumped_wall_ms);
            verdict.require(held == Held::Nothing, || {
                format!("n{} holds {held:?} under {key}, which was deleted at {} us", dump.node, delete.completed)
            });
        }
    }
    verdict.looked_at = format!("{keys} deleted keys, {looks} reads of them");
    verdict
}
