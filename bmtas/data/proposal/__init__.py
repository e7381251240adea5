"""From a folder of images and labels to a manifest: what is there, what it seems to mean, and why."""

from bmtas.data.proposal.found import Proposal, ProposedTask
from bmtas.data.proposal.propose import propose
from bmtas.data.proposal.write import write_proposal

__all__ = ["Proposal", "ProposedTask", "propose", "write_proposal"]
