//! What is done to every answer for one client, whoever wrote it.

use grip::cross_origin::{Cors, Jsonp};
use grip::hold::Answer;

/// Changes answers so that scripts of other origins can read them.
#[derive(Debug, Clone)]
pub(crate) enum Dressing {
    /// With header fields.
    Cors(Cors),
    /// As a script.
    Jsonp(Jsonp),
}

impl Dressing {
    /// The answer as the client gets it.
    pub(crate) fn dress(&self, mut answer: Answer) -> Answer {
        match self {
            Self::Cors(cors) => {
                cors.apply(&mut answer.headers);
                answer
            }
            Self::Jsonp(jsonp) => jsonp.wrap(&answer.status, &answer.headers, &answer.body),
        }
    }
}
