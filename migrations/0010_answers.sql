-- What the success of a gate's Job answered: the attempts that follow without a break do not ask again. Words that only the operator
-- compares; an operator of before leaves them alone.
ALTER TABLE portal_release.jobs ADD COLUMN answer text;
