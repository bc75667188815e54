-- The health of a FineTuneJob for Argo CD. Runs without Lua's standard libraries, as Argo CD runs it by default.
local verdicts = {
  {condition = "Stalled", health = "Degraded"},
  {condition = "Suspended", health = "Suspended"},
  {condition = "Reconciling", health = "Progressing"},
  {condition = "Ready", health = "Healthy"},
}

local status = obj.status or {}
local conditions = {}
for _, condition in ipairs(status.conditions or {}) do
  conditions[condition.type] = condition
end

if status.observedGeneration ~= obj.metadata.generation then
  local message = "The operator has not acted on generation " .. tostring(obj.metadata.generation) .. " yet"
  if conditions.Ready then
    message = message .. ". Of the one before: " .. conditions.Ready.message
  end
  return {status = "Progressing", message = message}
end

for _, verdict in ipairs(verdicts) do
  local condition = conditions[verdict.condition]
  if condition and condition.status == "True" then
    return {status = verdict.health, message = condition.message}
  end
end
return {status = "Progressing", message = "The operator has not said how it goes yet"}
