-- Requests with other keys each time, built before the clock starts. Arguments: file of values, header, prefix.
local requests, at = {}, 0

function init(args)
  for value in io.lines(args[1]) do
    requests[#requests + 1] = wrk.format("GET", nil, { [args[2]] = (args[3] or "") .. value })
  end
end

function request()
  at = at % #requests + 1
  return requests[at]
end
